// What a calibration promises, by which rows: of a model, or of the job that makes it.

import { element, table } from "./dom.js";
import { cell, count, counted, number, percent } from "./format.js";

/** A table of what `{coverage, promised, rows, score, quantiles, temperature, …}` says. */
export function calibrationTable({ coverage, promised, score, rows, quantiles, temperature, temperature_rows: fitted, way }) {
  const isOfSets = ["aps", "raps", "lac"].includes(score);
  const half = score === "normalised" ? "half width, in std" : "half width";
  const lines = [
    [isOfSets ? "sets hold the true class" : "intervals hold the truth", `${percent(coverage)}${promised ? `, by these rows ${percent(promised)}` : ""}`],
    ["rows", count(rows)],
    ["score", score],
    ...Object.entries(quantiles).map(([name, value]) => [
      isOfSets ? "quantile of the scores" : `${name}: ${half}`,
      typeof value === "number" ? number(value) : cell(value),
    ]),
    ...(temperature ? [["temperature", `${number(temperature)}${fitted ? `, by ${counted(fitted, "other row")}` : ""}`]] : []),
    ...(way ? wayLines(way) : []),
  ];
  return table(["", ""], lines);
}

/** The way of predicting that it holds for. */
function wayLines(way) {
  return [
    ["holds for", `num_samples ${count(way.num_samples)}, masks ${way.masks}`],
    ...way.acting.map((acting, index) => {
      const name = way.acting.length > 1 ? `with, member ${index}` : "with";
      const acts = Object.entries(acting).flatMap(([kind, all]) => all.map((one) => `${kind} ${number(one.rate ?? one.std)} on ${one.matched.join(", ")}`));
      return [name, acts.join("; ") || "nothing dropped and no noise"];
    }),
  ];
}

/** What a model is calibrated for. */
export function calibrationView({ calibration, metrics, calibrated_from: from }) {
  const parts = [calibrationTable({ ...calibration, promised: metrics.calibration?.promised })];
  if (from) parts.push(element("p", { class: "faint" }, "Another calibration of ", element("a", { href: `#/models/${from}` }, "this model"), "."));
  return element("div", {}, parts);
}
