// Models: the list, and one model with its metrics, shapes and predictions.

import { get, Refused } from "./api.js";
import { element, keyedChildren, section, setText, table } from "./dom.js";
import { ago, bytes, cell, count, counted, number, title } from "./format.js";
import { metricsTable } from "./jobs.js";
import { predictionForm } from "./predict.js";

const LISTED = ["rmse", "accuracy", "loss"];

export function modelList() {
  const node = element("ul", { class: "list" });
  return { node, update: keyedChildren(node, modelEntry) };
}

function modelEntry(model) {
  const link = element("a", { href: `#/models/${model.id}`, class: "name", title: model.id }, title(model));
  const time = element("span", { class: "faint" });
  const valid = model.metrics.valid ?? {};
  const best = LISTED.find((name) => isFinite(valid[name] ?? NaN));
  return {
    node: element(
      "li",
      { class: "entry" },
      link,
      element("span", {}, model.form),
      element("span", { class: "grow" }, best ? `${best} ${number(valid[best])}` : ""),
      element("span", { class: "faint" }, counted(model.parameter_count, "parameter")),
      time,
    ),
    update: (now) => setText(time, ago(now.created_at)),
  };
}

export function modelView(id) {
  const node = element("div", { class: "stack" });
  let isRead = false;
  return {
    node,
    async update() {
      if (isRead) return false; // a model never changes
      const model = await get(`/models/${encodeURIComponent(id)}`);
      const dataset = model.dataset ?? (await datasetOfJob(model.job));
      document.title = `${title(model)} · Bernoulli`;
      node.replaceChildren(
        section("", element("h1", {}, title(model)), facts(model, dataset)),
        section("Predict", predictionForm(model, dataset)),
        ...(model.calibration ? [section("Calibration", calibrationView(model))] : []),
        element(
          "div",
          { class: "pair" },
          section("Metrics", metricsTable(model.metrics)),
          section("Regularizers", regularizerList(model.regularizers)),
          section("Layers", layerTable(model.network.layers, model.outputs)),
          section("Parameters", parameterTable(model.parameters)),
        ),
      );
      isRead = true;
      return false;
    },
  };
}

async function datasetOfJob(job) {
  if (job === null) return null;
  try {
    return (await get(`/jobs/${job}`)).spec.dataset ?? null;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null; // the job was deleted
    throw error;
  }
}

/** What intervals or sets promise, by which rows, and for which way of predicting. */
function calibrationView({ calibration, metrics, calibrated_from: from }) {
  const { coverage, score, rows, quantiles, temperature, temperature_rows: fitted, way } = calibration;
  const isOfSets = ["aps", "raps", "lac"].includes(score);
  const promised = metrics.calibration?.promised;
  const lines = [
    [isOfSets ? "sets hold the true class" : "intervals hold the truth", `${percent(coverage)}${promised ? `, by these rows ${percent(promised)}` : ""}`],
    ["rows", count(rows)],
    ["score", score],
    ...Object.entries(quantiles).map(([name, value]) => [
      isOfSets ? "quantile of the scores" : `${name}: ${score === "normalised" ? "half width, in std" : "half width"}`,
      typeof value === "number" ? number(value) : cell(value),
    ]),
    ...(temperature ? [["temperature", `${number(temperature)}, by ${counted(fitted, "other row")}`]] : []),
    ["holds for", `num_samples ${count(way.num_samples)}, masks ${way.masks}`],
    ...way.acting.flatMap((acting, index) => {
      const name = way.acting.length > 1 ? `with, member ${index}` : "with";
      const acts = Object.entries(acting).flatMap(([kind, all]) => all.map((one) => `${kind} ${number(one.rate ?? one.std)} on ${one.matched.join(", ")}`));
      return [[name, acts.join("; ") || "nothing dropped and no noise"]];
    }),
  ];
  const parts = [table(["", ""], lines)];
  if (from) parts.push(element("p", { class: "faint" }, "Another calibration of ", element("a", { href: `#/models/${from}` }, "this model"), "."));
  return element("div", {}, parts);
}

const percent = (share) => `${number(100 * share)} %`;

function facts(model, dataset) {
  const parts = [model.id, model.form, counted(model.parameter_count, "parameter"), bytes(model.weights.bytes)];
  if (model.kept_epoch !== null && model.kept_epoch !== undefined) parts.push(`kept epoch ${model.kept_epoch}`);
  if (model.job) parts.push(element("a", { href: `#/jobs/${model.job}` }, "its job"));
  if (dataset) parts.push(element("a", { href: `#/datasets/${dataset}` }, "its data set"));
  return element("p", { class: "faint" }, parts.flatMap((part, index) => (index ? [" · ", part] : [part])));
}

function layerTable(layers, outputs) {
  const shape = (layer) => (outputs[`${layer.name}:out`]?.shape ?? [layer.size]).map(count).join(" × ");
  const rows = layers.map((layer) => [layer.name, layer.form, shape(layer), layer.activation ?? "–"]);
  return table(["layer", "form", "shape", "activation"], rows, (index) => index === 2);
}

function parameterTable(parameters) {
  const rows = Object.entries(parameters).map(([name, { shape, dtype }]) => [name, shape.join(" × "), dtype]);
  return table(["parameter", "shape", "type"], rows);
}

function regularizerList(regularizers) {
  if (!regularizers.length) return element("p", { class: "faint" }, "None.");
  const line = (one) => element("li", {}, element("code", {}, one.log.replace("regularizer: ", "")), ` on ${one.matched.join(", ")}`);
  return element("ul", {}, regularizers.map(line));
}
