// The variants of a search: what is different in each, how far it is, and what it is worth.

import { element, table } from "./dom.js";
import { count, counted, number } from "./format.js";

const SHOWN = ["valid.log_likelihood", "valid.rmse", "valid.accuracy", "valid.loss", "train.loss"];
const WAYS = { succeeded: "at their end", running: "running", queued: "waiting", stopped: "stopped", failed: "failed" };

const metric = (variant, path) => path.split(".").reduce((value, name) => value?.[name], variant.metrics) ?? null;
const isBestSmall = (path) => /(loss|rmse|mae)$/.test(path);

/** The variants by `path`, the metric that decides, best first; the chosen one before all. */
export function ranked(variants, path) {
  const sign = isBestSmall(path) ? 1 : -1;
  const place = ({ status }) => Object.keys(WAYS).indexOf(status);
  return [...variants].sort((a, b) => {
    const [one, other] = [metric(a, path), metric(b, path)];
    if (a.selected !== b.selected) return a.selected ? -1 : 1;
    if (one !== null && other !== null && one !== other) return sign * (one - other);
    if ((one === null) !== (other === null)) return one === null ? 1 : -1;
    return place(a) - place(b) || a.index - b.index;
  });
}

/** What is shown of `{variants, select}`; `select` is null as long as it is not known. */
export function variantTable({ variants, select }) {
  const known = SHOWN.filter((path) => variants.some((variant) => metric(variant, path) !== null));
  const decides = select ?? known[0] ?? "train.loss";
  const metrics = [decides, ...known.filter((path) => path !== decides)].slice(0, 3);
  const paths = [...new Set(variants.flatMap((variant) => Object.keys(variant.overrides)))];
  const headings = ["variant", ...paths, "status", "epochs", ...metrics.map((path) => (path === select ? `${path} (decides)` : path))];
  const rows = ranked(variants, decides).map((variant) => [
    count(variant.index),
    ...paths.map((path) => told(variant.overrides[path])),
    statusOf(variant),
    epochsOf(variant),
    ...metrics.map((path) => number(metric(variant, path))),
  ]);
  const isNumeric = (index) => index === 0 || index > paths.length + 1;
  return element("div", {}, element("p", { class: "faint" }, summary(variants, select)), table(headings, rows, isNumeric));
}

function statusOf(variant) {
  const text = variant.selected ? "chosen" : variant.status;
  return element("span", { class: variant.selected ? "badge chosen" : "badge", "data-status": variant.status, title: variant.error ?? "" }, text);
}

function epochsOf({ epochs, kept_epoch: kept }) {
  return kept === null || kept === epochs ? count(epochs) : `${count(epochs)}, kept ${count(kept)}`;
}

function told(value) {
  if (value === undefined) return element("span", { class: "faint" }, "as asked");
  if (typeof value === "number") return number(value);
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return element("code", { title: text }, text.length > 40 ? `${text.slice(0, 39)}…` : text);
}

function summary(variants, select) {
  const counts = Object.entries(WAYS)
    .map(([status, words]) => [variants.filter((variant) => variant.status === status).length, words])
    .filter(([many]) => many > 0)
    .map(([many, words]) => `${count(many)} ${words}`);
  const by = select === null ? "" : ` ${isBestSmall(select) ? "The least" : "The largest"} ${select} decides.`;
  return `${counted(variants.length, "variant")}: ${counts.join(", ")}.${by}`;
}
