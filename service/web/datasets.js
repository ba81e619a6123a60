// Data sets: the list, the upload, and one data set with its columns, first rows and training.

import { get, post, Refused, upload } from "./api.js";
import { element, keyedChildren, section, setText, table, whenChanged } from "./dom.js";
import { ago, bytes, cell, count, counted, number, title } from "./format.js";

const PREVIEW_ROWS = 20;
const NAMES_SHOWN = 12;

export function datasetList() {
  const node = element("ul", { class: "list" });
  return { node, update: keyedChildren(node, datasetEntry) };
}

function datasetEntry(dataset) {
  const link = element("a", { href: `#/datasets/${dataset.id}`, class: "name", title: dataset.id }, title(dataset));
  const time = element("span", { class: "faint" });
  const parts = dataset.kind === "table" ? dataset.columns : dataset.arrays;
  const names = parts.slice(0, NAMES_SHOWN).map((part) => part.name).join(", ");
  const rest = parts.length > NAMES_SHOWN ? `, … ${parts.length - NAMES_SHOWN} more` : "";
  return {
    node: element(
      "li",
      { class: "entry" },
      link,
      element("span", {}, sizeOf(dataset)),
      element("span", { class: "faint grow" }, names + rest),
      time,
    ),
    update: (now) => setText(time, ago(now.created_at)),
  };
}

function sizeOf(dataset) {
  const rows = counted(dataset.rows, "row");
  return dataset.kind === "table"
    ? `${rows} × ${counted(dataset.columns.length, "column")}`
    : `${rows}, ${counted(dataset.arrays.length, "array")}`;
}

export function uploadControl() {
  const said = element("span", { class: "faint", role: "status" });
  const file = element("input", {
    type: "file",
    accept: ".csv,.tsv,.parquet,.arrows,.ndjson,.jsonl,.json,.npz",
    onchange: send,
  });
  async function send() {
    const [chosen] = file.files;
    if (!chosen) return;
    file.disabled = true;
    setText(said, `Sending ${bytes(chosen.size)} …`);
    try {
      const name = chosen.name.replace(/\.[^.]+$/, "").slice(0, 200);
      const dataset = await upload(name ? `/datasets?name=${encodeURIComponent(name)}` : "/datasets", chosen);
      setText(said, `Stored: ${sizeOf(dataset)}.`);
      document.dispatchEvent(new Event("changed"));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      setText(said, error.message);
    } finally {
      file.value = "";
      file.disabled = false;
    }
  }
  return element("p", { class: "upload" }, element("label", {}, "Upload CSV, Parquet, Arrow, NDJSON, JSON or npz ", file), said);
}

export function datasetView(id) {
  const heading = element("h1", {}, id);
  const facts = element("p", { class: "faint" });
  const schema = element("div");
  const preview = element("div");
  const show = whenChanged((dataset) => {
    setText(heading, title(dataset));
    document.title = `${title(dataset)} · Bernoulli`;
    const told = `${dataset.id} · ${sizeOf(dataset)} · ${bytes(dataset.bytes)}`;
    facts.replaceChildren(told, ...(dataset.job ? [" · ", element("a", { href: `#/jobs/${dataset.job}` }, "predicted by a job")] : []));
    schema.replaceChildren(dataset.kind === "table" ? columnTable(dataset.columns) : arrayTable(dataset.arrays));
  });
  const showRows = whenChanged((rows) => preview.replaceChildren(previewTable(rows)));
  let isRead = false;
  return {
    node: element(
      "div",
      { class: "stack" },
      section("", heading, facts),
      section("Train a network on it", trainingForm(id)),
      section("Columns", schema),
      section("First rows", preview),
    ),
    async update() {
      if (isRead) return false; // a data set never changes
      const path = `/datasets/${encodeURIComponent(id)}`;
      const [dataset, rows] = await Promise.all([get(path), get(`${path}/preview?rows=${PREVIEW_ROWS}`)]);
      show(dataset);
      showRows(rows.rows);
      isRead = true;
      return false;
    },
  };
}

function columnTable(columns) {
  const rows = columns.map((column) => [
    column.name,
    column.type,
    count(column.nulls),
    ...["min", "max", "mean", "std"].map((name) => number(column[name])),
    column.categories ? cell(column.categories.slice(0, 10).join(", ")) : "",
  ]);
  const headings = ["column", "type", "missing", "min", "max", "mean", "std", "categories"];
  return table(headings, rows, (index) => index > 1 && index < 7);
}

function arrayTable(arrays) {
  return table(["array", "shape", "type"], arrays.map((array) => [array.name, array.shape.join(" × "), array.dtype]));
}

function previewTable(rows) {
  if (Array.isArray(rows)) {
    const names = Object.keys(rows[0] ?? {});
    const isNumeric = names.map((name) => rows.every((row) => row[name] === null || typeof row[name] === "number"));
    return table(names, rows.map((row) => names.map((name) => cell(row[name]))), (index) => isNumeric[index]);
  }
  const names = Object.keys(rows);
  const length = Math.max(0, ...names.map((name) => rows[name].length));
  return table(names, Array.from({ length }, (_, index) => names.map((name) => cell(rows[name][index]))));
}

function trainingForm(id) {
  const wanted = { dataset: id, network: { layers: [null, 64, 64, null] }, hidden_dropout: 0.1, epochs: 100, patience: 10 };
  const lines = Object.entries(wanted).map(([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  const text = element("textarea", { rows: 8, spellcheck: "false", "aria-label": "the training request, as JSON" });
  text.value = `{\n${lines.join(",\n")}\n}`;
  const said = element("div", { role: "status" });
  const start = element("button", { type: "submit" }, "Train");
  const check = element("button", { type: "button", class: "quiet", onclick: () => send("/train?validate_only=true", plan) }, "Check only");
  function plan(found) {
    const lines = [
      `${counted(found.parameter_count, "parameter")}, ${found.steps_per_epoch} steps an epoch`,
      `reads ${cell(found.inputs.join(", "))}; predicts ${cell(found.targets.join(", "))}`,
      ...found.warnings,
    ];
    said.replaceChildren(...lines.map((line) => element("p", {}, line)));
  }
  async function send(path, then) {
    start.disabled = check.disabled = true;
    try {
      then(await post(path, text.value));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      said.replaceChildren(element("p", { class: "notice" }, error.message));
    } finally {
      start.disabled = check.disabled = false;
    }
  }
  const submit = (event) => {
    event.preventDefault();
    send("/train", (job) => {
      location.hash = `#/jobs/${job.id}`;
    });
  };
  return element("form", { onsubmit: submit }, text, element("p", { class: "buttons" }, start, check), said);
}
