// Which view the address asks for, and how often it looks at the server again.

import { Refused } from "./api.js";
import { datasetView } from "./datasets.js";
import { element } from "./dom.js";
import { jobView } from "./jobs.js";
import { modelView } from "./models.js";
import { overview } from "./overview.js";

const BUSY_MS = 1000;
const IDLE_MS = 5000;
const VIEWS = { jobs: jobView, datasets: datasetView, models: modelView };

const main = document.getElementById("main");
const notice = document.getElementById("notice");
let shown = 0;
let wake = () => {};

/** A view is `{node, update}`; `update` resolves to whether something is going on. */
function viewOf(hash) {
  const [, kind, id] = hash.split("/");
  if (kind === undefined || kind === "") return overview();
  if (id && Object.hasOwn(VIEWS, kind)) return VIEWS[kind](decodeURIComponent(id));
  const text = element("p", {}, "There is nothing here. ", element("a", { href: "#/" }, "Back to the overview"));
  return { node: text, update: async () => false };
}

async function show() {
  const mine = ++shown;
  const view = viewOf(location.hash);
  main.replaceChildren(view.node);
  window.scrollTo(0, 0);
  wake();
  while (mine === shown) {
    let busy = false;
    try {
      busy = await view.update();
      if (mine === shown) tell(null);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (mine === shown) tell(error.message);
    }
    await pause(busy ? BUSY_MS : IDLE_MS);
  }
}

function tell(message) {
  notice.hidden = message === null;
  notice.textContent = message ?? "";
}

/** Wait, and while the page is hidden until it is seen again; `wake()` ends it at once. */
function pause(milliseconds) {
  return new Promise((resolve) => {
    wake = resolve;
    setTimeout(() => document.hidden || resolve(), milliseconds);
  });
}

document.addEventListener("visibilitychange", () => document.hidden || wake());
document.addEventListener("changed", () => wake()); // something on the page changed the server
window.addEventListener("hashchange", show);
show();
