// Numbers, times and names as people read them.

const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false });
const whole = new Intl.NumberFormat("en");

/** A measured number, to four digits. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-4 || size >= 1e7) ? value.toExponential(2) : plain.format(value);
}

/** A share, in percent. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${number(100 * share)} %`;
}

/** A counted number. */
export function count(value) {
  return whole.format(value);
}

/** A count with its word: `1 row`, `20 rows`. */
export function counted(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

export function duration(seconds) {
  if (seconds < 1) return "less than 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${plain.format(Math.round(seconds / 360) / 10)} h`;
}

export function bytes(value) {
  if (value < 1000) return `${value} bytes`;
  const units = ["kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(value) / 3), units.length);
  return `${plain.format(Number((value / 1000 ** power).toPrecision(3)))} ${units[power - 1]}`;
}

export function ago(time) {
  const seconds = (Date.now() - Date.parse(time)) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(time).toISOString().slice(0, 10);
}

/** A name where there is one, else the end of the id, which differs from one to the next. */
export function title(thing) {
  return thing.name ?? `${thing.id.split("_")[0]}_…${thing.id.slice(-6)}`;
}

/** A cell of a table of data. */
export function cell(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "object") {
    const text = JSON.stringify(value);
    return text.length > 80 ? `${text.slice(0, 79)}…` : text;
  }
  const text = String(value);
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}
