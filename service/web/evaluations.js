// What an evaluation came to: scores, what is calibrated, and what uncertainty knows of errors.

import { curveChart } from "./courses.js";
import { element, table } from "./dom.js";
import { cell, count, counted, number, percent } from "./format.js";

const SCORES = [
  ["rmse", "mae", "r2", "log_likelihood", "crps", "coverage", "interval_width", "calibration_error"],
  ["accuracy", "log_loss", "brier", "ece", "auroc"],
].flat();

const isThere = (value) => value !== null && value !== undefined;

/** What is shown of the `test` metrics of an evaluation job. */
export function evaluationView(test) {
  const scores = SCORES.filter((name) => isThere(test[name])).map((name) => [name, number(test[name])]);
  const passes = test.num_samples === null || test.num_samples === 1 ? "one pass" : `${count(test.num_samples)} passes`;
  return element(
    "div",
    {},
    element("p", { class: "faint" }, `${counted(test.rows, "row")}, ${passes}${isThere(test.seed) ? `, seed ${test.seed}` : ""}.`),
    table(["score", ""], scores, (index) => index === 1),
    promiseOf(test.interval ?? test.set),
    curveOf(test),
    perTarget(test.targets),
    intervalTable(test.intervals),
    uncertaintyTable(test.uncertainty),
    otherRows(test.ood),
    test.warnings.map((text) => element("p", { class: "faint" }, `Note: ${text}.`)),
  );
}

function promiseOf(own) {
  if (!isThere(own)) return null;
  const what = isThere(own.size) ? `sets of ${number(own.size)} labels` : `intervals of width ${number(own.width)}`;
  const way = own.calibrated ? "" : "; these passes are not the calibrated ones";
  return element("p", {}, `Calibrated ${what} cover ${percent(own.coverage)}, and ${percent(own.level)} is promised${way}.`);
}

/** How often truths are what the model says, against how often they should be. */
function curveOf({ calibration, reliability }) {
  if (isThere(calibration)) {
    const points = calibration.expected.map((level, index) => [level, calibration.observed[index]]);
    return curveChart(points, "share of truths below each quantile", "quantile");
  }
  const filled = (reliability ?? []).filter((bin) => bin.count);
  if (filled.length < 2) return null;
  return curveChart(filled.map((bin) => [bin.confidence, bin.accuracy]), "share of right labels by confidence", "confidence");
}

function perTarget(targets) {
  if (!isThere(targets)) return null;
  const names = SCORES.filter((name) => Object.values(targets).some((own) => isThere(own[name])));
  const rows = Object.entries(targets).map(([target, own]) => [cell(target), ...names.map((name) => number(own[name]))]);
  return table(["target", ...names], rows, (index) => index > 0);
}

function intervalTable(intervals) {
  if (!isThere(intervals)) return null;
  const rows = intervals.map((own) => [percent(own.level), percent(own.coverage), number(own.width)]);
  return table(["central interval", "covers", "mean width"], rows, (index) => index > 0);
}

function uncertaintyTable(uncertainty) {
  const kinds = Object.entries(uncertainty ?? {});
  if (!kinds.length) return null;
  const names = ["mean", "auroc", "aurc", "ause"].filter((name) => kinds.some(([, own]) => isThere(own[name])));
  const rows = kinds.map(([kind, own]) => [kind, ...names.map((name) => number(own[name]))]);
  return table(["uncertainty", ...names], rows, (index) => index > 0);
}

function otherRows(ood) {
  if (!isThere(ood)) return null;
  const rows = Object.keys(ood.auroc).map((kind) => [kind, number(ood.auroc[kind]), number(ood.mean[kind])]);
  return element(
    "div",
    {},
    element("p", { class: "faint" }, `Told apart from ${counted(ood.rows, "row")} of `, element("a", { href: `#/datasets/${ood.dataset}` }, "another data set"), ":"),
    table(["uncertainty", "auroc", "mean there"], rows, (index) => index > 0),
  );
}
