// What a model's predictions turned out to be worth, as far as it was told the truths.

import { courseChart } from "./courses.js";
import { element, table } from "./dom.js";
import { ago, cell, count, number, percent } from "./format.js";

const FIGURES = ["rmse", "mae", "accuracy", "log_loss", "brier", "log_likelihood"];

const isThere = (value) => value !== null && value !== undefined;

/** What is shown of the answer of `GET /models/{id}/feedback`. */
export function feedbackView(told) {
  if (told.totals === null) {
    const call = element("code", {}, `POST /models/${told.model}/feedback`);
    return element("p", { class: "faint" }, "No truths have been told yet; ", call, " tells them.");
  }
  return element(
    "div",
    {},
    told.warnings.map((text) => element("p", { class: /promised, beyond/.test(text) ? "notice" : "faint" }, `${text}.`)),
    course(told),
    scoreTable(told),
    element("p", { class: "faint" }, `Last told ${ago(told.totals.until)}.`),
  );
}

/** Coverage over all rows or, of a model that promises none, what it is best watched by. */
function course({ history, totals }) {
  const promise = totals.interval ?? totals.set;
  const name = promise ? "coverage" : isThere(totals.accuracy) ? "accuracy" : "rmse";
  let rows = 0;
  const points = history.map((own) => {
    rows += own.rows;
    return { at: rows, value: own[name], text: `${count(own.rows)} rows until ${new Date(own.until).toLocaleString()}: ${number(own[name])}` };
  });
  return courseChart(points, { wanted: promise?.level ?? null, label: `${name} by rows` });
}

function scoreTable({ totals, recent }) {
  const columns = [totals, recent];
  const line = (name, read) => [name, ...columns.map(read)];
  const promise = (own) => own.interval ?? own.set;
  const lines = [line("rows", (own) => count(own.rows))];
  if (promise(totals)) {
    lines.push(line(`covered, of ${percent(promise(totals).level)} promised`, (own) => percent(promise(own)?.coverage)));
    if (isThere(promise(totals).lower)) {
      lines.push(line("99 % bounds", (own) => `${percent(promise(own).lower)} to ${percent(promise(own).upper)}`));
      lines.push(line("p-value", (own) => number(promise(own).p_value)));
    }
    lines.push(line("departs from the promise", (own) => verdict(promise(own))));
    lines.push(line(isThere(promise(totals).size) ? "mean size" : "mean width", (own) => number(promise(own)?.size ?? promise(own)?.width)));
  }
  for (const name of FIGURES) if (isThere(totals[name])) lines.push(line(name, (own) => number(own[name])));
  const parts = [table(["", "all rows", "latest rows"], lines, (index) => index > 0)];
  if (totals.targets) parts.push(targetTable(totals.targets));
  return element("div", {}, parts);
}

function targetTable(targets) {
  const names = ["coverage", "rmse", "mae", "log_likelihood"].filter((name) => Object.values(targets).some((own) => isThere(own[name])));
  const rows = Object.entries(targets).map(([target, own]) => [cell(target), ...names.map((name) => number(own[name]))]);
  return table(["target", ...names], rows, (index) => index > 0);
}

function verdict(promise) {
  if (!isThere(promise?.differs)) return "–";
  if (promise.drifted) return "yes: the rows have changed";
  return promise.differs ? "yes: too few calibration rows" : "no";
}
