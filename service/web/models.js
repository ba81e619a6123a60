// Models: the list, and one model with its metrics, shapes and predictions.

import { get, Refused } from "./api.js";
import { calibrationView } from "./calibrations.js";
import { element, keyedChildren, section, setText, table, whenChanged } from "./dom.js";
import { feedbackView } from "./feedback.js";
import { ago, bytes, count, counted, number, title } from "./format.js";
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
  const truths = element("div");
  const tell = whenChanged((told) => truths.replaceChildren(feedbackView(told)));
  let isRead = false;
  return {
    node,
    async update() {
      tell(await get(`/models/${encodeURIComponent(id)}/feedback`));
      if (isRead) return false; // a model never changes, but for what becomes known of it
      const model = await get(`/models/${encodeURIComponent(id)}`);
      const dataset = model.dataset ?? (await datasetOfJob(model.job));
      document.title = `${title(model)} · Bernoulli`;
      node.replaceChildren(
        section("", element("h1", {}, title(model)), facts(model, dataset)),
        section("Predict", predictionForm(model, dataset)),
        ...(model.calibration ? [section("Calibration", calibrationView(model))] : []),
        section("Feedback", truths),
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
