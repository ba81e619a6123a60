// Jobs: the list, and one job with its curves, metrics, regularizer log and events.

import { get, post, Refused } from "./api.js";
import { calibrationTable } from "./calibrations.js";
import { lossChart, rateChart, sparkline } from "./charts.js";
import { element, keyedChildren, section, setText, swap, table, whenChanged } from "./dom.js";
import { evaluationView } from "./evaluations.js";
import { ago, cell, count, duration, number, title } from "./format.js";
import { History } from "./history.js";
import { variantTable } from "./variants.js";

const EVENTS_SHOWN = 12;

export const isLive = (job) => !job.terminal;

export function jobList() {
  const node = element("ul", { class: "list" });
  return { node, update: keyedChildren(node, jobEntry) };
}

function jobEntry(job) {
  const state = badge();
  const bar = progressBar();
  const time = element("span", { class: "faint" });
  const cancel = cancelButton(job.id, "Cancel", false);
  const link = element("a", { href: `#/jobs/${job.id}`, class: "name", title: job.id }, title(job));
  return {
    node: element("li", { class: "entry" }, link, state.node, bar.node, time, cancel),
    update(now) {
      state.update(now);
      bar.update(now);
      setText(time, ago(now.created_at));
      cancel.hidden = now.terminal || now.status === "cancelling";
    },
  };
}

function badge() {
  const node = element("span", { class: "badge" });
  return {
    node,
    update(job) {
      node.dataset.status = job.status;
      setText(node, job.status);
    },
  };
}

function progressBar() {
  const bar = element("progress", { max: 1, "aria-label": "progress" });
  const text = element("span", { class: "faint" });
  return {
    node: element("span", { class: "progress" }, bar, text),
    update(job) {
      const now = job.progress;
      bar.hidden = job.terminal && job.status !== "succeeded";
      if (now?.total) bar.value = now.completed / now.total;
      else if (job.status === "queued") bar.value = 0;
      else bar.removeAttribute("value");
      setText(text, progressText(job));
    },
  };
}

function progressText(job) {
  if (job.status === "failed") return job.error?.detail ?? "";
  if (job.progress === null) return job.status === "queued" ? "waits for a worker" : "";
  const { phase, completed, total, unit, eta_seconds: eta } = job.progress;
  const share = `${count(completed)}${total ? ` of ${count(total)}` : ""}`;
  const done = unit === "%" ? `${phase} ${completed} %` : unit === "rows" ? `${share} rows` : `${unit} ${share}`;
  return job.terminal || eta === null || eta === undefined ? done : `${done} · ${duration(eta)} left`;
}

function cancelButton(id, label, keep) {
  return element("button", { type: "button", class: "quiet", hidden: true, onclick: cancel }, label);
  async function cancel(event) {
    event.target.disabled = true;
    try {
      await post(`/jobs/${id}/cancel`, { keep });
    } catch (error) {
      // A 409 says that it ended first, which the next look at it shows.
      if (!(error instanceof Refused)) throw error;
      if (error.status !== 409) window.alert(error.message);
    } finally {
      event.target.disabled = false;
    }
    document.dispatchEvent(new Event("changed"));
  }
}

export function jobView(id) {
  const heading = element("h1", {}, id);
  const state = badge();
  const bar = progressBar();
  const buttons = [cancelButton(id, "Cancel", false), cancelButton(id, "", true)];
  const facts = element("p", { class: "faint" });
  const failure = element("p", { class: "notice", hidden: true });
  const chart = lossChart();
  const rates = rateChart();
  const ofRate = section("Learning rate that was found", rates.node);
  ofRate.hidden = true;
  const metrics = element("div");
  const variants = element("div");
  const ofSearch = section("Variants", variants);
  ofSearch.hidden = true;
  const log = element("div");
  const events = element("ol", { class: "events" });
  const spec = element("pre", { tabindex: 0 });
  const history = new History(id);
  const show = {
    facts: whenChanged((job) => facts.replaceChildren(...factsOf(job))),
    metrics: whenChanged(([kind, all]) => metrics.replaceChildren(resultOf(kind, all))),
    variants: whenChanged((found) => swap(variants, variantTable(found))),
    regularizers: whenChanged(([, , none]) => swap(log, regularizerTable(history.regularizers, none))),
    events: whenChanged((latest) => events.replaceChildren(...latest.map(eventLine))),
    spec: whenChanged((wanted) => setText(spec, JSON.stringify(wanted, null, 2))),
  };
  const ofLosses = section("Loss", chart.node);
  const ofTraining = [ofLosses, section("Regularizers", log)];
  const ofMetrics = section("Metrics", metrics);
  for (const part of [...ofTraining, ofMetrics]) part.hidden = true; // until it is known what the job is
  let areAllRead = false; // of a search that has ended nothing changes any more
  return {
    node: element(
      "div",
      { class: "stack" },
      section("", heading, element("p", { class: "entry" }, state.node, bar.node, ...buttons), failure, facts),
      ofRate,
      ofSearch,
      ofLosses,
      ofMetrics,
      ofTraining[1],
      section("Latest events", events),
      element("section", {}, element("details", {}, element("summary", {}, "What was asked for"), spec)),
    ),
    async update() {
      const job = await get(`/jobs/${encodeURIComponent(id)}`);
      setText(heading, title(job));
      document.title = `${title(job)} · Bernoulli`;
      state.update(job);
      bar.update(job);
      const trains = job.kind === "train";
      for (const part of ofTraining) part.hidden = !trains;
      ofMetrics.hidden = !hasMetrics(job);
      setText(buttons[1], KEPT[job.kind] ?? "");
      for (const button of buttons) button.hidden = job.terminal || job.status === "cancelling";
      buttons[1].hidden ||= !(job.kind in KEPT);
      failure.hidden = job.error === null;
      bar.node.hidden = !failure.hidden; // which says the same, at length
      setText(failure, job.error === null ? "" : `${job.error.detail} (${job.error.kind})`);
      show.facts(job);
      show.metrics([job.kind, job.metrics]);
      show.spec(withoutNulls(job.spec));
      if (await history.follow()) {
        chart.update(history.epochs(), history.kept());
        if (history.rate !== null && ofRate.hidden) {
          ofRate.hidden = false;
          rates.update(history.rate);
        }
      }
      const search = trains ? (job.spec.search ?? null) : null;
      if (search !== null) {
        // Before one is chosen there are no epochs but the variants' own, which are not told.
        ofLosses.hidden = history.chosen === null;
        ofSearch.hidden = false;
        if (!areAllRead) {
          const { data } = await get(`/jobs/${encodeURIComponent(id)}/variants`);
          show.variants({ variants: data, select: history.select });
          areAllRead = job.terminal;
        }
      }
      const none = search === null || history.chosen !== null ? NOTHING : job.terminal ? NEVER_CHOSEN : NOT_YET_CHOSEN;
      show.regularizers([history.last, history.regularizers.length, none]);
      show.events(history.latest(EVENTS_SHOWN));
      return isLive(job);
    },
  };
}

function factsOf(job) {
  const facts = [job.id];
  const dataset = job.spec.dataset ?? job.spec.inputs?.dataset;
  if (dataset) facts.push(element("a", { href: `#/datasets/${dataset}` }, "data set"));
  if (job.spec.model) facts.push(element("a", { href: `#/models/${job.spec.model}` }, "model"));
  if (job.result?.dataset) facts.push(element("a", { href: `#/datasets/${job.result.dataset}` }, "its predictions"));
  if (job.model) facts.push(element("a", { href: `#/models/${job.model}` }, "model: ask it for predictions"));
  if (job.attempts > 1) facts.push(`attempt ${job.attempts}`);
  if (job.started_at && job.finished_at) {
    facts.push(`took ${duration((Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000)}`);
  }
  for (const [name, value] of Object.entries(job.tags)) facts.push(`${name}: ${value}`);
  return facts.flatMap((fact, index) => (index ? [" · ", fact] : [fact]));
}

/** What a job that is cancelled can leave, by its kind. */
const KEPT = { train: "Cancel, keep the best so far", predict: "Cancel, keep the rows that are done" };

function hasMetrics({ kind, metrics }) {
  if (kind === "evaluate") return metrics.test !== undefined;
  return kind === "calibrate" ? metrics.calibration !== undefined : kind === "train";
}

/** What a job came to. */
function resultOf(kind, metrics) {
  if (kind === "evaluate") return metrics.test ? evaluationView(metrics.test) : element("span");
  const parts = metrics.calibration ? [calibrationTable(metrics.calibration)] : [];
  if (kind === "train") parts.unshift(metricsTable(metrics));
  return element("div", {}, parts);
}

/** Metrics by name, of the training and of the validation rows. */
export function metricsTable({ search, calibration: _, ...own }) {
  // What is trained once more on all rows has no validation rows left; it was chosen by these.
  const metrics = Object.keys(own.valid ?? {}).length ? own : { ...own, "valid, when chosen": search?.valid ?? {} };
  const kinds = Object.keys(metrics).filter((kind) => Object.values(metrics[kind]).some((value) => typeof value === "number"));
  const names = [...new Set(kinds.flatMap((kind) => Object.keys(metrics[kind])))];
  if (!names.length) return element("p", { class: "faint" }, "None yet.");
  const rows = names.map((name) => [name, ...kinds.map((kind) => measured(metrics[kind][name]))]);
  return table(["", ...kinds], rows, (index) => index > 0);
}

const measured = (value) => (value !== null && typeof value === "object" ? cell(value) : number(value));

const NOTHING = "None: nothing is dropped or penalised.";
const NOT_YET_CHOSEN = "Each variant has its own; those of the best are shown once it is chosen.";
const NEVER_CHOSEN = "Each variant had its own; none was chosen.";

function regularizerTable(regularizers, none) {
  if (!regularizers.length) return element("p", { class: "faint" }, none);
  const rows = regularizers.flatMap((one) => {
    const last = one.history.at(-1);
    const outputs = Object.keys(last?.rates ?? {});
    const name = () => element("code", {}, one.log.replace("regularizer: ", ""));
    if (!outputs.length) return [[cell(one.matched.join(", ")), "–", "", number(last?.loss), name()]];
    return outputs.map((output) => {
      const curve = sparkline(one.history.map((line) => line.rates[output]), one.form === "concrete_dropout" ? null : one.weight);
      return [output, number(last.rates[output]), curve, number(last.loss), name()];
    });
  });
  return table(["acts on", "share dropped", "by epoch", "loss added", "regularizer"], rows, (index) => index === 1 || index === 3);
}

function eventLine(event) {
  const time = element("time", { class: "faint", datetime: event.at }, new Date(event.at).toLocaleTimeString());
  return element("li", {}, time, element("b", {}, event.type), element("span", {}, eventText(event)));
}

function eventText({ type, data }) {
  if (type === "log") return data.message;
  if (type === "variant") return `${data.index} ${data.status}, ${JSON.stringify(data.overrides)}`;
  if (type !== "epoch") {
    return Object.entries(data)
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `${name} ${typeof value === "object" ? (value.detail ?? JSON.stringify(value)) : value}`)
      .join(", ");
  }
  const losses = ["train", "valid"].filter((part) => data[part]?.loss !== undefined);
  return `${data.epoch}: ${losses.map((part) => `${part} ${number(data[part].loss)}`).join(", ")}${data.best ? ", best so far" : ""}`;
}

function withoutNulls(value) {
  if (Array.isArray(value)) return value.map((item) => (item === null ? null : withoutNulls(item)));
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).filter(([, item]) => item !== null && !(typeof item === "object" && !Object.keys(item).length));
  return Object.fromEntries(kept.map(([name, item]) => [name, withoutNulls(item)]));
}
