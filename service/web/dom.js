// Elements from data. Text only ever becomes text nodes, so nothing that a caller named can run.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element: attributes, `onEVENT` listeners, then text and elements within. */
export function element(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Set the text of an element, touching the page only where it differs. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Keep `parent`'s children in step with a list of things that have ids. Entries stay the same
 * elements from one update to the next, so that a click or the focus survives it.
 */
export function keyedChildren(parent, create) {
  const entries = new Map();
  return (things) => {
    const present = new Set(things.map((thing) => thing.id));
    for (const [id, entry] of entries) {
      if (present.has(id)) continue;
      entry.node.remove();
      entries.delete(id);
    }
    things.forEach((thing, index) => {
      if (!entries.has(thing.id)) entries.set(thing.id, create(thing));
      const entry = entries.get(thing.id);
      entry.update(thing);
      const there = parent.children[index] ?? null;
      if (there !== entry.node) parent.insertBefore(entry.node, there);
    });
  };
}

/** Replace what is in `parent` by `node`; what was scrolled stays where it was. */
export function swap(parent, node) {
  const { scrollLeft, scrollTop } = parent.firstElementChild ?? { scrollLeft: 0, scrollTop: 0 };
  parent.replaceChildren(node);
  node.scrollTo?.(scrollLeft, scrollTop);
}

/** Call `render` only with data that differ from the last time. */
export function whenChanged(render) {
  let last;
  return (data) => {
    const now = JSON.stringify(data);
    if (now === last) return;
    last = now;
    render(data);
  };
}

/** A table that scrolls sideways by itself; `numeric` columns are aligned to the right. */
export function table(headings, rows, numeric = () => false) {
  const side = (index) => (numeric(index) ? { class: "number" } : {});
  return element(
    "div",
    { class: "scroll", tabindex: 0 },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, headings.map((text, index) => element("th", { scope: "col", ...side(index) }, text)))),
      element("tbody", {}, rows.map((cells) => element("tr", {}, cells.map((cell, index) => element("td", side(index), cell))))),
    ),
  );
}

export function section(title, ...children) {
  return element("section", {}, element("h2", {}, title), ...children);
}
