// What happened to a job, read event by event; each epoch once, as the last attempt has it.

import { get } from "./api.js";

const PAGE = 1000;
const REMEMBERED = 100;

export class History {
  #path;
  #epochs = new Map();
  #regularizers = new Map();
  #latest = [];
  /** The learning rate that was found, with what was tried; null where none was. */
  rate = null;
  /** Of a search, the metric that decides; null before it is told. */
  select = null;
  /** Of a search, the number of the variant that was chosen; null before. */
  chosen = null;
  /** Id of the last event that was read. */
  last = 0;

  constructor(id) {
    this.#path = `/jobs/${encodeURIComponent(id)}/events`;
  }

  /** Read what has come since; whether there was anything. */
  async follow() {
    const before = this.last;
    let page;
    do {
      page = await get(`${this.#path}?limit=${PAGE}&after=${this.last}`);
      for (const event of page.data) this.#take(event);
    } while (page.has_more);
    return this.last > before;
  }

  /** `{epoch, train, valid}` in order; a loss that was not measured is null. */
  epochs() {
    return [...this.#epochs.values()].sort((a, b) => a.epoch - b.epoch);
  }

  /** The epoch whose parameters are the best so far, or null. */
  kept() {
    return this.epochs().findLast((line) => line.best)?.epoch ?? null;
  }

  /** What the build resolved, each with its history by epoch. */
  get regularizers() {
    return [...this.#regularizers.values()];
  }

  latest(count) {
    return this.#latest.slice(-count).reverse();
  }

  #take(event) {
    if (event.id <= this.last) return;
    this.last = event.id;
    this.#latest.push(event);
    if (this.#latest.length > REMEMBERED) this.#latest.shift();
    if (event.type === "retried") this.#forgetAfter(event.data.from_epoch);
    else if (event.type === "epoch") this.#takeEpoch(event.data);
    else if (event.type === "learning_rate") this.rate = event.data;
    else if (event.type === "selected") {
      this.chosen = event.data.variant;
      this.select = event.data.by;
    } else if (event.data.select) this.select = event.data.select;
    else if (event.data.regularizer) {
      const described = event.data.regularizer;
      this.#regularizers.set(described.index, { ...described, history: [] });
    }
  }

  #takeEpoch({ epoch, train, valid, regularizers, best }) {
    this.#epochs.set(epoch, { epoch, train: train?.loss ?? null, valid: valid?.loss ?? null, best });
    for (const line of regularizers ?? []) {
      const known = this.#regularizers.get(line.index);
      if (!known) continue;
      // An attempt may tell an epoch once more; it is the same one.
      if (known.history.at(-1)?.epoch >= epoch) known.history = known.history.filter((one) => one.epoch < epoch);
      known.history.push({ epoch, loss: line.loss, rates: line.rates ?? {} });
    }
  }

  /** A new attempt goes on from a checkpoint: what came after it, comes again. */
  #forgetAfter(epoch) {
    for (const known of [...this.#epochs.keys()]) if (known > epoch) this.#epochs.delete(known);
    for (const one of this.#regularizers.values()) {
      one.history = one.history.filter((line) => line.epoch <= epoch);
    }
  }
}
