// A card with one chart: its title, the values under the cursor, what is not on the axis, and
// the chart itself, read by eyes, keys and screen readers.

import { h, icon, fill } from "../dom.js";
import * as format from "../format.js";
import { failure } from "../parts/messages.js";
import { showTable } from "../parts/table_dialog.js";
import { go, state } from "../state.js";
import { t } from "../words.js";
import { describe, indexUnder, xWords } from "./describing.js";
import { keysOf } from "./keys.js";
import { Plot } from "./plot.js";
import { outside } from "./ranges.js";
import { countHidden } from "./strip.js";

const LABELS = 60; // under the cursor, at most; the nearest first

export class ChartCard {
  /**
   * title: of the card. span: of the view. settings(): { x, y }.
   * load({ from, to, width, left, ratio, live }, signal): Promise of { lines, extent, several, uneven, events?, hidden? }.
   * formatY(y, digits): for values of this chart, which may be counts of bytes. makePlot(host, handlers): what draws, lines by default.
   * legend: an element below the chart.
   */
  constructor({ title, dimTitle = "", span, settings, load, formatY = format.value, inBytes = false, makePlot = null, legend = null }) {
    Object.assign(this, { title, span, settings, load, formatY, inBytes, makePlot, legend });
    this.lines = [];
    this.line = 0; // which line the keys are about
    this.places = h("div", { class: "plot", tabindex: "0", role: "application", "aria-roledescription": t("chart") });
    this.strip = h("div", { class: "strip" });
    this.chips = h("div", { class: "chips" });
    this.told = h("div", { class: "card-told" });
    this.element = h(
      "section",
      { class: "card", "aria-label": title },
      h(
        "header",
        {},
        h("h2", { title }, dimTitle && h("span", { class: "dim" }, dimTitle), title.slice(dimTitle.length)),
        this.chips,
        button("table", t("chart.table"), () => this.table()),
        button("wide", t("chart.wide"), () => this.widen()),
      ),
      this.strip,
      h("div", { class: "plot-place" }, this.places, this.told),
      legend,
    );
    this.keys = keysOf(this);
    this.places.addEventListener("keydown", this.keys);
    this.places.addEventListener("blur", () => this.span.source === this && this.span.point(null, this));
    this.recolored = () => {
      if (this.found) this.draw();
      this.fetch();
    };
  }

  /** The lines as they are read: ghosts are drawn below the others, and named after them. */
  get listed() {
    return this.lines.slice().sort((a, b) => Number(a.faint ?? false) - Number(b.faint ?? false));
  }

  /** Begin to draw and to fetch; until `sleep`. */
  wake() {
    if (this.plot) return;
    const handlers = {
      zoom: (stretch) => this.span.show(stretch),
      zoomBy: (factor, x) => this.span.zoom(factor, x),
      pan: (share) => this.span.pan(share),
      whole: () => this.span.whole(),
      cursor: (x, y) => {
        this.y = y;
        this.span.point(x, this);
      },
      resized: () => this.fetch(),
    };
    this.plot = this.makePlot?.(this.places, handlers) ?? new Plot(this.places, handlers);
    this.off = this.span.on((what) => this.heard(what));
    window.addEventListener("recolor", this.recolored);
    this.places.setAttribute("aria-label", describe(this));
    this.fetch();
  }

  sleep() {
    if (!this.plot) return;
    this.off();
    window.removeEventListener("recolor", this.recolored);
    this.asked?.abort();
    this.plot.destroy();
    this.plot = this.found = null;
    this.lines = [];
  }

  heard(what) {
    if (what === "move") this.plot.view(this.span.now);
    else if (what === "rest") this.fetch();
    else {
      // under the pointer uPlot has moved the cursor itself
      if (this.span.source !== this) this.plot.cursorAt(this.span.cursor ?? null);
      this.label();
    }
  }

  /** Fetch the stretch exactly as it is drawn; an answer that is too late is thrown away. */
  async fetch({ live = false } = {}) {
    if (!this.plot) return;
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    // a single run shown whole needs no stretch: the server knows its newest tick
    const whole = !this.span.chosen && (!this.several || !this.span.extent);
    const now = whole ? null : this.span.now;
    try {
      const found = await this.load({ from: now?.[0], to: now?.[1], ...this.plot.pixels, live }, asked.signal);
      await this.plot?.ready;
      if (asked.signal.aborted || !this.plot) return;
      Object.assign(this, found, { found });
      fill(this.told, found.lines.some((line) => line.x.length) ? null : h("p", {}, t("chart.empty")));
      if (found.extent) this.span.include(found.extent);
      this.draw();
      this.element.classList.add("loaded");
      this.element.dataset.shown = (this.span.now ?? []).join(" "); // for tests: what is drawn exactly
      // runs of different length are reduced for the stretch that all of them share
      if (found.uneven && whole) this.fetch();
    } catch (error) {
      if (error.name === "AbortError" || asked.signal.aborted) return;
      fill(this.told, failure(error, () => this.fetch()));
      if (!error.status && error.status !== 0) throw error;
    }
  }

  draw() {
    if (!this.plot || !this.found) return;
    const { x, y, fit } = this.settings();
    const view = this.span.now ?? [0, 1];
    const linear = y === "asinh" ? linearPart(this.lines) : undefined;
    const { lines, formatY, inBytes, found } = this;
    this.plot.show({ lines, view, y, fit, linear, xKind: x, formatY, inBytes, found, events: this.events ?? [] });
    this.places.setAttribute("aria-label", describe(this));
    this.count();
    this.label();
  }

  /** Chips: what the axis cannot show, and a click that goes there. */
  count() {
    const sum = (key) => this.lines.reduce((total, { counts }) => total + (counts?.[key] ?? 0), 0);
    const firsts = this.lines.map(({ counts }) => counts?.first_nan).filter(Number.isFinite);
    const bad = [["nan", "NaN"], ["inf", "+Inf"], ["-inf", "−Inf"]].filter(([key]) => sum(key));
    this.firstBad = firsts.length ? Math.min(...firsts) : null;
    const go = () => this.toFirstBad();
    const chips = bad.map(([key, name]) =>
      h("button", { type: "button", class: "chip bad", title: t("chart.first"), on: { click: go } }, `${name} ${format.whole(sum(key))}`),
    );
    if (this.settings().y === "log" && sum("nonpositive")) {
      chips.push(h("span", { class: "chip", title: t("chart.nonpositive") }, `≤ 0: ${format.whole(sum("nonpositive"))}`));
    }
    if (this.settings().fit && this.plot.range && this.span.now) {
      const { above, below } = outside(this.lines, this.plot.range, this.span.now, this.plot.pixels.width);
      if (above || below) chips.push(h("span", { class: "chip", title: t("chart.outside") }, `↑ ${format.whole(above)} ↓ ${format.whole(below)}`));
    }
    if (this.hidden) chips.push(h("span", { class: "chip" }, this.hidden));
    // a chart is drawn often, and mostly with the same chips: those that have the focus stay
    const same = chips.length === this.chips.children.length && chips.every((chip, i) => chip.isEqualNode(this.chips.children[i]));
    if (!same) fill(this.chips, chips);
  }

  toFirstBad() {
    if (this.firstBad === null || this.firstBad === undefined) return;
    const [from, to] = this.span.now;
    const half = Math.max((to - from) / 40, 20);
    this.span.show([this.firstBad - half, this.firstBad + half]);
    this.span.point(this.firstBad, null);
  }

  /** The values under the cursor in a strip outside of the plot, the nearest to the pointer first. */
  label() {
    const x = this.span.cursor ?? null;
    const middle = ((this.step ?? 1) - 1) / 2; // of a column that stands for some ticks
    const pointed = x !== null && this.span.source === this && Number.isFinite(this.y);
    let entries = this.listed
      .filter((line) => line.x.length)
      .map((line) => {
        const at = x === null ? lastValue(line) : indexUnder(line.x, x - middle, this.span.now);
        return { line, x: line.x[at], y: line.y[at] };
      })
      .filter(({ x: own }) => own !== undefined);
    if (this.plot?.rowAt) {
      if (!pointed) {
        fill(this.strip, h("span", {}, t("chart.point")));
        countHidden(this.strip);
        return;
      }
      entries = entries.slice(this.y, this.y + 1); // of a heat map only the row under the pointer
    } else if (pointed) {
      entries.sort((a, b) => distance(a.y, this.y) - distance(b.y, this.y));
    }
    const event = x !== null && this.events?.length ? this.nearEvent(x) : null;
    const named = entries.length > 1 || this.plot?.rowAt;
    fill(
      this.strip,
      event && h("span", { class: "event" }, event.label),
      h("span", { class: "at" }, x === null ? t("chart.last") : xWords(this.settings().x, entries[0]?.x ?? x)),
      entries.slice(0, LABELS).map(({ line, y }) =>
        h(
          "span",
          { class: line.faint ? "value faint" : "value", style: { "--run": line.color ?? "" } },
          line.color && h("i", {}),
          named && h("span", { class: "who" }, line.label),
          h("b", {}, Number.isNaN(y) ? "–" : this.formatY(y)), // (a map has NaN where nothing is known)
        ),
      ),
    );
    countHidden(this.strip, Math.max(entries.length - LABELS, 0));
  }

  nearEvent(x) {
    const [from, to] = this.span.now;
    const reach = (to - from) / 80;
    return this.events.find((event) => Math.abs(event.x - x) <= reach);
  }

  fit() {
    go({ fit: state.fit ? undefined : 1 }, { replace: true });
  }

  widen() {
    this.element.classList.toggle("wide");
  }

  /** All points that are drawn, as a table. */
  table() {
    const { x } = this.settings();
    const lines = this.listed;
    const columns = [t(`x.${x}`), ...lines.map((line) => line.label)];
    const [from, to] = this.span.now ?? [-Infinity, Infinity];
    const rows = new Map();
    lines.forEach((line, i) => {
      for (let k = 0; k < line.x.length; k += 1) {
        if (line.x[k] < from || line.x[k] > to) continue;
        if (!rows.has(line.x[k])) rows.set(line.x[k], []);
        rows.get(line.x[k])[i] = line.y[k];
      }
    });
    const sorted = [...rows].sort((a, b) => a[0] - b[0]);
    showTable(this.title, columns, sorted.map(([at, values]) => [xWords(x, at), ...lines.map((_, i) => (Number.isNaN(values[i] ?? NaN) ? "" : this.formatY(values[i])))]));
  }
}

/** Where the last finite value is; where there is none, the last point. */
function lastValue({ x, y }) {
  let at = x.length - 1;
  while (at > 0 && !Number.isFinite(y[at])) at -= 1;
  return Number.isFinite(y[at]) ? at : x.length - 1;
}

const distance = (a, b) => (Number.isFinite(a) ? Math.abs(a - b) : Infinity);

function button(name, words, click) {
  return h("button", { type: "button", class: "quiet", title: words, "aria-label": words, on: { click } }, icon(name));
}

/** Where an asinh axis turns from linear to logarithmic: a thousandth of the largest value. */
function linearPart(lines) {
  let most = 0;
  for (const { y } of lines) for (const each of y) if (Number.isFinite(each)) most = Math.max(most, Math.abs(each));
  return most ? 10 ** Math.floor(Math.log10(most) - 3) : 1;
}
