// Drawings in SVG, at the width that the page gives them.

import { element, svg } from "./dom.js";
import { number } from "./format.js";

export const MARGIN = { top: 10, right: 12, bottom: 26, left: 52 };

/** An element that is drawn anew by `draw(width)` whenever its width changes, or on demand. */
export function drawn(draw, attributes = {}) {
  const node = element("div", { class: "chart", ...attributes });
  let width = 0;
  const redraw = () => width && node.replaceChildren(draw(width));
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width) return;
    width = now;
    // Not within the observer: what is drawn changes sizes that it watches.
    requestAnimationFrame(redraw);
  }).observe(node);
  return { node, redraw };
}

export function scale(low, high, from, to, isLog = false) {
  const f = isLog ? Math.log : (value) => value;
  const span = f(high) - f(low) || 1;
  return (value) => from + ((f(value) - f(low)) / span) * (to - from);
}

/** Round values within [low, high], about `wanted` of them. */
export function ticks(low, high, wanted, whole = false) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high + step * 1e-9; index += 1) {
    found.push(Number((index * step).toPrecision(12)));
  }
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    found.push(...[1, 2, 5].map((factor) => factor * 10 ** power));
  }
  const within = found.filter((value) => value >= low && value <= high);
  return within.length > 7 ? within.filter((value) => Math.log10(value) % 1 === 0) : within;
}

export function path(points) {
  let pen = "M";
  return points
    .map(([x, y]) => {
      if (y === null) {
        pen = "M";
        return "";
      }
      const step = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
      return step;
    })
    .join("");
}

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Training and validation loss by epoch, with the kept epoch marked and a readout by pointer. */
export function lossChart() {
  const readout = element("p", { class: "legend", "aria-live": "off" });
  let lines = [];
  let kept = null;
  const { node, redraw } = drawn((width) => drawLosses(lines, kept, width, tell));
  function tell(line) {
    const part = (name) => [element("i", { class: `key ${name}` }), `${name} ${number(line?.[name])}  `];
    const parts = ["train", "valid"].filter((name) => lines.some((one) => one[name] !== null));
    readout.replaceChildren(line ? `epoch ${line.epoch}  ` : "", ...parts.flatMap(part));
  }
  return {
    node: element("div", {}, readout, node),
    update(epochs, best) {
      lines = epochs;
      kept = best;
      redraw();
      tell(epochs.at(-1));
    },
  };
}

function drawLosses(lines, kept, width, tell) {
  if (!lines.length) return element("p", { class: "faint" }, "No epoch has ended.");
  const height = Math.min(300, Math.max(180, width * 0.4));
  const values = lines.flatMap((line) => [line.train, line.valid]).filter(isNumber);
  if (!values.length) return element("p", { class: "faint" }, "No loss is a number.");
  let [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const isLog = low > 0 && high / low > 50;
  if (!isLog) [low, high] = padded(low, high);
  const first = lines[0].epoch;
  const last = lines.at(-1).epoch;
  const x = scale(first, Math.max(last, first + 1), MARGIN.left, width - MARGIN.right);
  const y = scale(low, high, height - MARGIN.bottom, MARGIN.top, isLog);
  const stride = Math.ceil(lines.length / width);
  const some = lines.filter((_, index) => index % stride === 0 || index === lines.length - 1);
  const curve = (name) => {
    const points = some.map((line) => [x(line.epoch), isNumber(line[name]) ? y(line[name]) : null]);
    const drawnPoints = points.filter(([, value]) => value !== null);
    return drawnPoints.length === 1
      ? svg("circle", { class: `dot ${name}`, cx: drawnPoints[0][0], cy: drawnPoints[0][1], r: 3 })
      : svg("path", { class: `line ${name}`, d: path(points) });
  };
  const cursor = svg("line", { class: "cursor", y1: MARGIN.top, y2: height - MARGIN.bottom, visibility: "hidden" });
  const picture = svg(
    "svg",
    { width, height, role: "img", "aria-label": `loss of ${lines.length} epochs, last ${number(lines.at(-1).train)}` },
    grid(isLog ? logTicks(low, high) : ticks(low, high, 5), y, width),
    axis(ticks(first, last, Math.max(4, Math.floor(width / 90)), true), x, height, "epoch"),
    kept === null ? null : svg("line", { class: "kept", x1: x(kept), x2: x(kept), y1: MARGIN.top, y2: height - MARGIN.bottom }, svg("title", {}, `kept: epoch ${kept}`)),
    curve("train"),
    curve("valid"),
    cursor,
  );
  picture.addEventListener("pointermove", (event) => {
    const at = event.clientX - picture.getBoundingClientRect().left;
    const nearest = some.reduce((best, line) => (Math.abs(x(line.epoch) - at) < Math.abs(x(best.epoch) - at) ? line : best));
    cursor.setAttribute("x1", x(nearest.epoch));
    cursor.setAttribute("x2", x(nearest.epoch));
    cursor.setAttribute("visibility", "visible");
    tell(nearest);
  });
  picture.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tell(lines.at(-1));
  });
  return picture;
}

/** The running loss at each learning rate that was tried, with the one that was taken marked. */
export function rateChart() {
  let found = null;
  const { node, redraw } = drawn((width) => (found ? drawRates(found, width) : element("span")));
  return {
    node,
    update(wanted) {
      found = wanted;
      redraw();
    },
  };
}

function drawRates({ curve, learning_rate: rate }, width) {
  const points = curve.filter(([, loss]) => isNumber(loss));
  if (points.length < 2) return element("p", { class: "faint" }, "No loss is a number.");
  const height = Math.min(240, Math.max(160, width * 0.3));
  const losses = points.map(([, loss]) => loss);
  const [low, high] = padded(Math.min(...losses), Math.max(...losses));
  const [first, last] = [Math.min(points[0][0], rate), Math.max(points.at(-1)[0], rate)];
  const x = scale(first, last, MARGIN.left, width - MARGIN.right, true);
  const y = scale(low, high, height - MARGIN.bottom, MARGIN.top);
  const marks = logTicks(first, last);
  return svg(
    "svg",
    { width, height, role: "img", "aria-label": `loss at ${points.length} learning rates; ${number(rate)} was taken` },
    grid(ticks(low, high, 4), y, width),
    axis(marks.filter((_, index) => index % Math.ceil((marks.length * 60) / width) === 0), x, height, "rate"),
    svg("line", { class: "kept", x1: x(rate), x2: x(rate), y1: MARGIN.top, y2: height - MARGIN.bottom }, svg("title", {}, `taken: ${number(rate)}`)),
    svg("path", { class: "line train", d: path(points.map(([at, loss]) => [x(at), y(loss)])) }),
  );
}

export function padded(low, high) {
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  return [low - margin, high + margin];
}

export function grid(values, y, width) {
  return svg("g", { class: "grid" }, values.map((value) => [
    svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
    svg("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
  ]).flat());
}

export function axis(values, x, height, label) {
  const y = height - 8;
  const texts = values.map((value) => svg("text", { x: x(value), y, "text-anchor": "middle" }, number(value)));
  return svg("g", { class: "grid" }, svg("text", { x: 2, y }, label), texts);
}

/** A small curve of a dropped share, with the rate that was asked for. */
export function sparkline(values, wanted) {
  const some = values.filter(isNumber);
  if (some.length < 2) return element("span");
  const [width, height] = [140, 26];
  const bounds = isNumber(wanted) ? [...some, wanted] : some;
  const [low, high] = [Math.min(...bounds), Math.max(...bounds)];
  const y = scale(low, high, height - 3, 3);
  const x = scale(0, values.length - 1, 1, width - 1);
  const stride = Math.ceil(values.length / width);
  const points = values.map((value, index) => [x(index), isNumber(value) ? y(value) : null]);
  return svg(
    "svg",
    { class: "spark", width, height, role: "img", "aria-label": `from ${number(some[0])} to ${number(some.at(-1))}` },
    isNumber(wanted) ? svg("line", { class: "wanted", x1: 0, x2: width, y1: y(wanted), y2: y(wanted) }) : null,
    svg("path", { class: "line train", d: path(points.filter((_, index) => index % stride === 0)) }),
  );
}

/**
 * A mean with its interval for each row: `{label, mean, outer: [low, high] | null, inner}`. The
 * outer bar is the interval; the inner one the part that the passes alone explain.
 */
export function intervalChart(rows) {
  const { node } = drawn((width) => drawIntervals(rows, width));
  return node;
}

function drawIntervals(rows, width) {
  const step = 26;
  const left = Math.min(90, width * 0.22);
  const height = rows.length * step + 36;
  const values = rows.flatMap((row) => [row.mean, ...(row.outer ?? []), ...(row.inner ?? [])]).filter(isNumber);
  if (!values.length) return element("p", { class: "faint" }, "No prediction is a number.");
  const [low, high] = padded(Math.min(...values), Math.max(...values));
  const x = scale(low, high, left, width - 14);
  const bar = (name, ends, y) =>
    ends && ends.every(isNumber)
      ? svg("line", { class: `bar ${name}`, x1: x(ends[0]), x2: x(ends[1]), y1: y, y2: y })
      : null;
  const marks = ticks(low, high, Math.max(2, Math.floor(width / 110)));
  return svg(
    "svg",
    { width, height, role: "img", "aria-label": "means with their intervals; the table has the numbers" },
    svg("g", { class: "grid" }, marks.map((value) => svg("line", { x1: x(value), x2: x(value), y1: 4, y2: height - 26 }))),
    axis(marks, x, height, ""),
    rows.map((row, index) => {
      const y = 16 + index * step;
      return svg(
        "g",
        {},
        svg("text", { class: "label", x: 2, y: y + 4 }, row.label),
        bar("outer", row.outer, y),
        bar("inner", row.inner, y),
        isNumber(row.mean) ? svg("circle", { class: "mean", cx: x(row.mean), cy: y, r: 4.5 }) : null,
        svg("title", {}, `${row.label}: ${number(row.mean)}`),
      );
    }),
  );
}
