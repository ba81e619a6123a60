// Asking a model for predictions, and drawing how sure it is.

import { get, post, Refused } from "./api.js";
import { intervalChart } from "./charts.js";
import { element, table } from "./dom.js";
import { cell, number } from "./format.js";

const PREFILLED = 3;
const DRAWN = 40;
const LISTED = 500;
const CLASSES_SHOWN = 5;
const QUANTILES = [0.05, 0.95];
const STOCHASTIC = /dropout|drop_connect|noise/;

export function predictionForm(model, dataset) {
  const text = element("textarea", { rows: 6, spellcheck: "false", "aria-label": "rows to predict, as JSON" });
  const isRandom = model.regularizers.some((one) => STOCHASTIC.test(one.form));
  const passes = element("input", { type: "number", min: 0, max: 100000, step: 1, value: isRandom ? 100 : 0 });
  const seed = element("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, placeholder: "drawn" });
  const button = element("button", { type: "submit" }, "Predict");
  const answer = element("div", { role: "status" });
  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      const inputs = JSON.parse(text.value);
      const body = requestOf(model, inputs, Number(passes.value), seed.value);
      answer.replaceChildren(...drawAnswer(model, await post("/predict", body)));
    } catch (error) {
      const isJson = error instanceof SyntaxError;
      if (!isJson && !(error instanceof Refused)) throw error;
      answer.replaceChildren(element("p", { class: "notice" }, isJson ? `The rows are not JSON: ${error.message}` : error.message));
    } finally {
      button.disabled = false;
    }
  }
  prefill(text, model, dataset);
  return element(
    "form",
    { onsubmit: submit },
    text,
    element(
      "p",
      { class: "buttons" },
      element("label", {}, "Passes ", passes),
      element("label", {}, "Seed ", seed),
      button,
      element("span", { class: "faint" }, isRandom ? "0 passes: nothing is dropped" : "trained without dropout: one pass, nothing is dropped"),
    ),
    answer,
  );
}

/** Rows of the data set that it was trained on if that is still there, else the inputs' means. */
async function prefill(text, model, dataset) {
  const inputs = model.encoding.inputs;
  const mean = Object.fromEntries(inputs.map((input) => [input.name, meanOf(input)]));
  text.value = written([mean]);
  if (dataset === null) return;
  let rows;
  try {
    ({ rows } = await get(`/datasets/${dataset}/preview?rows=${PREFILLED}`));
  } catch (error) {
    if (error instanceof Refused) return; // deleted: the means do
    throw error;
  }
  const found = Array.isArray(rows) ? rows : records(rows);
  const usable = found
    .map((row) => Object.fromEntries(inputs.map(({ name }) => [name, row[name]])))
    .filter((row) => Object.values(row).every((value) => value !== null && value !== undefined));
  if (usable.length) text.value = written(usable);
}

function meanOf({ mean, type, size }) {
  const rounded = (value) => (type === "integer" ? Math.round(value) : Number(value.toPrecision(4)));
  if (type === "boolean") return mean >= 0.5;
  if (Array.isArray(mean)) return mean.map(rounded);
  return size > 1 ? Array(size).fill(rounded(mean)) : rounded(mean);
}

function records(arrays) {
  const names = Object.keys(arrays);
  return (arrays[names[0]] ?? []).map((_, index) => Object.fromEntries(names.map((name) => [name, arrays[name][index]])));
}

function written(rows) {
  return `[\n${rows.map((row) => `  ${JSON.stringify(row)}`).join(",\n")}\n]`;
}

function requestOf(model, inputs, passes, seed) {
  const body = { model: model.id, inputs };
  if (seed !== "") body.seed = Number(seed);
  if (passes === 0) return body;
  body.num_samples = passes;
  if (model.form === "classifier") return body;
  body.quantiles = QUANTILES;
  body.statistics = ["mean", "std", "quantiles"];
  if (model.noise_precision !== null) body.statistics.push("predictive_quantiles");
  return body;
}

function drawAnswer(model, answer) {
  const notes = answer.warnings.map((warning) => element("p", { class: "faint" }, warning));
  const told =
    answer.num_samples === null
      ? "One pass, nothing dropped."
      : `${answer.num_samples} passes, seed ${answer.seed}; ${answer.dropout.map((one) => `${one.pattern} dropped at ${one.rate}`).join(", ")}.`;
  const parts = model.form === "classifier" ? classParts(model, answer.outputs) : intervalParts(model, answer.outputs);
  return [...parts, element("p", { class: "faint" }, told), ...notes];
}

/** Numbers of one row, whatever its shape, in the order of the network's outputs. */
const flat = (row) => (Array.isArray(row) ? row.flat(Infinity) : [row]);

function targetNames(model, width) {
  const names = model.encoding.targets.flatMap(({ name, size }) =>
    size === 1 ? [name] : Array.from({ length: size }, (_, index) => `${name}[${index}]`),
  );
  return names.length === width ? names : Array.from({ length: width }, (_, index) => `output ${index}`);
}

function intervalParts(model, outputs) {
  const means = (outputs.mean ?? outputs.prediction).map(flat);
  const ends = (quantiles) => (quantiles ? QUANTILES.map((quantile) => quantiles[String(quantile)].map(flat)) : null);
  const predictive = ends(outputs.predictive_quantiles);
  const passes = ends(outputs.quantiles);
  const deviations = outputs.std?.map(flat);
  const names = targetNames(model, means[0].length);
  const at = (pair, row, column) => pair && pair.map((end) => end[row][column]);
  const parts = [];
  names.slice(0, DRAWN).forEach((name, column) => {
    const rows = means.slice(0, DRAWN).map((values, row) => ({
      label: `row ${row}`,
      mean: values[column],
      outer: at(predictive ?? passes, row, column),
      inner: predictive && at(passes, row, column),
    }));
    parts.push(element("h3", {}, name), intervalChart(rows));
  });
  if (passes) parts.push(element("p", { class: "legend" }, legend(predictive !== null)));
  const interval = predictive ?? passes;
  const lines = means.flatMap((values, row) =>
    values.map((mean, column) => [
      String(row),
      names[column],
      number(mean),
      ...(interval ? [number(deviations?.[row][column]), ...at(interval, row, column).map(number)] : []),
    ]),
  );
  const headings = ["row", "target", interval ? "mean" : "prediction", ...(interval ? ["std of passes", "5 %", "95 %"] : [])];
  parts.push(table(headings, lines.slice(0, LISTED), (index) => index > 1));
  if (lines.length > LISTED) parts.push(element("p", { class: "faint" }, `The first ${LISTED} of ${lines.length} lines.`));
  return parts;
}

function legend(isPredictive) {
  const key = (name, text) => [element("i", { class: `key ${name}` }), `${text}  `];
  return isPredictive
    ? [...key("mean", "mean"), ...key("outer", "90 % of the predictions: passes and noise"), ...key("inner", "90 % of the passes alone")]
    : [...key("mean", "mean"), ...key("outer", "90 % of the passes")];
}

function classParts(model, outputs) {
  const classes = model.encoding.classes.map(String);
  const measured = ["entropy", "mutual_information"].filter((name) => outputs[name]);
  const rows = outputs.probabilities.slice(0, LISTED).map((values, row) => [
    String(row),
    element("b", {}, cell(outputs.label[row])),
    ...measured.map((name) => number(outputs[name][row])),
    probabilityBars(classes, flat(values)),
  ]);
  const headings = ["row", "label", ...measured.map((name) => name.replace("_", " ")), "probabilities"];
  const parts = [table(headings, rows, (index) => index > 1 && index < headings.length - 1)];
  if (measured.length) parts.push(element("p", { class: "faint" }, "Entropy and mutual information are in nats."));
  if (outputs.probabilities.length > LISTED) {
    parts.push(element("p", { class: "faint" }, `The first ${LISTED} of ${outputs.probabilities.length} rows.`));
  }
  return parts;
}

function probabilityBars(classes, values) {
  const order = values.map((_, index) => index).sort((a, b) => values[b] - values[a]);
  const bar = (index) => {
    const fill = element("span", { class: "fill" });
    fill.style.width = `${100 * values[index]}%`;
    return element(
      "div",
      { class: "share" },
      element("span", { class: "of" }, cell(classes[index] ?? String(index))),
      element("span", { class: "trough" }, fill),
      element("span", { class: "number" }, `${(100 * values[index]).toFixed(1)} %`),
    );
  };
  const rest = order.length > CLASSES_SHOWN ? [element("div", { class: "faint" }, `and ${order.length - CLASSES_SHOWN} more`)] : [];
  return element("div", { class: "shares" }, order.slice(0, CLASSES_SHOWN).map(bar), rest);
}
