// Drawings of what a model turned out to be worth: over its rows, and against what it says of itself.

import { axis, drawn, grid, isNumber, MARGIN, padded, path, scale, ticks } from "./charts.js";
import { element, svg } from "./dom.js";
import { number } from "./format.js";

/** How something went, by rows: `{at, value, text}` each, with the value that is wanted. */
export function courseChart(points, { wanted, label }) {
  const some = points.filter(({ value }) => isNumber(value));
  const { node } = drawn((width) => drawCourse(some, wanted, label, width));
  return node;
}

function drawCourse(points, wanted, label, width) {
  if (!points.length) return element("p", { class: "faint" }, "No score is a number.");
  const height = Math.min(220, Math.max(150, width * 0.25));
  const values = points.map(({ value }) => value).concat(isNumber(wanted) ? [wanted] : []);
  const [low, high] = padded(Math.min(...values), Math.max(...values));
  const last = points.at(-1).at;
  const x = scale(0, last, MARGIN.left, width - MARGIN.right);
  const y = scale(low, high, height - MARGIN.bottom, MARGIN.top);
  return svg(
    "svg",
    { width, height, role: "img", "aria-label": `${label}: last ${number(points.at(-1).value)}${isNumber(wanted) ? `, wanted ${number(wanted)}` : ""}` },
    grid(ticks(low, high, 4), y, width),
    axis(ticks(0, last, Math.max(3, Math.floor(width / 110)), true), x, height, "rows"),
    isNumber(wanted) ? svg("line", { class: "wanted", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(wanted), y2: y(wanted) }, svg("title", {}, `promised: ${number(wanted)}`)) : null,
    svg("path", { class: "line train", d: path(points.map(({ at, value }) => [x(at), y(value)])) }),
    points.map(({ at, value, text }) => svg("circle", { class: "dot train", cx: x(at), cy: y(value), r: 3 }, svg("title", {}, text))),
  );
}

/** Shares `[expected, observed]`, against the diagonal on which they would be equal. */
export function curveChart(points, label, unit) {
  const some = points.filter((point) => point.every(isNumber));
  const { node } = drawn((width) => drawCurve(some, label, unit, Math.min(width, 360)));
  return node;
}

function drawCurve(points, label, unit, width) {
  const height = Math.min(280, width * 0.8);
  const x = scale(0, 1, MARGIN.left, width - MARGIN.right);
  const y = scale(0, 1, height - MARGIN.bottom, MARGIN.top);
  const marks = [0, 0.25, 0.5, 0.75, 1];
  return svg(
    "svg",
    { width, height, role: "img", "aria-label": label },
    svg("title", {}, label),
    grid(marks, y, width),
    axis(marks.slice(1), x, height, unit),
    svg("line", { class: "wanted", x1: x(0), x2: x(1), y1: y(0), y2: y(1) }),
    svg("path", { class: "line train", d: path(points.map(([at, share]) => [x(at), y(share)])) }),
    points.map(([at, share]) => svg("circle", { class: "dot train", cx: x(at), cy: y(share), r: 3 })),
  );
}
