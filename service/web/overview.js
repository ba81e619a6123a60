// The first page: jobs, data sets and models, and what to do when there are none.

import { get, hasKey } from "./api.js";
import { datasetList, uploadControl } from "./datasets.js";
import { element, section } from "./dom.js";
import { isLive, jobList } from "./jobs.js";
import { modelList } from "./models.js";

const PAGE = 20;
const MOST = 1000;
const OTHERS_MS = 15000;

export function overview() {
  const jobs = part("Jobs", "/jobs", jobList(), trainingHint);
  const datasets = part("Data sets", "/datasets", datasetList(), uploadHint, uploadControl());
  const models = part("Models", "/models", modelList(), modelHint);
  let looked = 0;
  let ended = "";
  return {
    node: element("div", { class: "stack" }, jobs.node, datasets.node, models.node),
    async update(isAsked) {
      const found = await jobs.update();
      datasets.node.classList.toggle("first", found.length === 0); // there is the way in
      const endedNow = found.filter((job) => job.terminal).map((job) => job.id).join();
      // Jobs move all the time; the rest when someone uploads or a job leaves a model.
      if (isAsked || endedNow !== ended || Date.now() - looked > OTHERS_MS) {
        await Promise.all([datasets.update(), models.update()]);
        looked = Date.now();
        ended = endedNow;
      }
      return found.some(isLive);
    },
  };
}

/** A section that lists what `path` answers, newest first, with more on demand. */
function part(name, path, list, hint, ...controls) {
  let limit = PAGE;
  const empty = element("div", { hidden: true });
  const more = element("button", { class: "quiet", type: "button", hidden: true, onclick: showMore }, "Show more");
  async function update() {
    const page = await get(`${path}?limit=${limit}`);
    list.update(page.data);
    list.node.hidden = page.data.length === 0;
    empty.hidden = page.data.length > 0;
    if (!empty.hidden && !empty.hasChildNodes()) empty.append(...hint());
    more.hidden = !page.has_more || limit >= MOST;
    return page.data;
  }
  function showMore() {
    limit = Math.min(limit * 5, MOST);
    document.dispatchEvent(new Event("changed"));
  }
  return { node: section(name, ...controls, empty, list.node, more), update };
}

function curl(path, ...options) {
  const key = hasKey() ? ["-H 'Authorization: Bearer KEY'"] : [];
  const lines = [`curl '${location.origin}${path}'`, ...key, ...options];
  return element("pre", { tabindex: 0 }, lines.join(" \\\n  "));
}

function uploadHint() {
  return [
    element("p", {}, "Start here: upload a table or arrays, above or with"),
    curl("/datasets?name=first", "-F file=@table.csv"),
  ];
}

function modelHint() {
  return [element("p", {}, "A job that succeeds leaves a model here, to be asked for predictions.")];
}

function trainingHint() {
  return [
    element("p", {}, "Nothing has been trained yet. Upload a data set, open it, and start a job there, or with"),
    curl(
      "/train",
      "-H 'Content-Type: application/json'",
      `-d '{"dataset": "ds_…", "network": {"layers": [null, 64, 64, null]}, "hidden_dropout": 0.1}'`,
    ),
  ];
}
