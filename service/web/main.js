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
const ID = /^[\w.-]{1,64}$/;
let shown = 0;
let isAsked = false;
let wake = () => {};

/**
 * A view is `{node, update}`. `update(isAsked)` resolves to whether something is going on, so that
 * it is to be called again soon; `isAsked` is false where merely time has passed.
 */
function viewOf(hash) {
  const [, kind, id] = hash.split("/");
  if (kind === undefined || kind === "") return overview();
  if (ID.test(id ?? "") && Object.hasOwn(VIEWS, kind)) return VIEWS[kind](id);
  return { node: lost("There is nothing here."), update: async () => false };
}

function lost(message) {
  return element("p", {}, `${message} `, element("a", { href: "#/" }, "Back to the overview"));
}

async function show() {
  const mine = ++shown;
  document.title = "Bernoulli";
  const view = viewOf(location.hash);
  main.replaceChildren(view.node);
  window.scrollTo(0, 0);
  let hasFailed = false;
  ask();
  while (mine === shown) {
    let busy = false;
    try {
      const asked = isAsked || hasFailed;
      isAsked = hasFailed = false;
      busy = await view.update(asked);
      if (mine === shown) tell(null);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (mine !== shown) return;
      if (error.status === 404) {
        main.replaceChildren(lost(`${error.message}.`));
        return;
      }
      tell(error.message);
      hasFailed = true;
    }
    if (mine === shown) await pause(busy ? BUSY_MS : IDLE_MS);
  }
}

function tell(message) {
  notice.hidden = message === null;
  notice.textContent = message ?? "";
}

/** Wait, and while the page is hidden until it is seen again; being asked ends it at once. */
function pause(milliseconds) {
  if (isAsked) return Promise.resolve();
  return new Promise((resolve) => {
    wake = resolve;
    setTimeout(() => document.hidden || resolve(), milliseconds);
  });
}

function ask() {
  isAsked = true;
  wake();
}

document.addEventListener("visibilitychange", () => document.hidden || ask());
document.addEventListener("changed", ask); // something on the page changed the server
window.addEventListener("hashchange", show);
show();
