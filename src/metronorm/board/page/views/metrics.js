// Metrics: a card for each, over the runs that are shown, or over one run with its events and the
// ticks that a resume has replaced.

import { ApiError, getJson } from "../api.js";
import { ChartCard } from "../charts/card.js";
import { Grid } from "../charts/grid.js";
import { paced } from "../charts/pace.js";
import { Span } from "../charts/span.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { eventMarks } from "../parts/event_marks.js";
import { groupsOf } from "../parts/groups.js";
import { empty, failure, noRuns } from "../parts/messages.js";
import { loadMetric, settings } from "../parts/metric_lines.js";
import { phaseCard } from "../parts/phase_card.js";
import { resourceCard } from "../parts/resource_card.js";
import { runHeader } from "../parts/run_header.js";
import { sectionsOf } from "../parts/sections.js";
import { AXES, SCALES, choice, fitting, select, smoothing, zoomButtons } from "../parts/toolbar.js";
import { infoOf, listedIds, loaded, onFound, order, shownIds } from "../runs.js";
import { go, state } from "../state.js";
import { t } from "../words.js";

const CARDS = 48; // of a section, before somebody asks for more
const SECTIONS = 100; // the same
const WAIT_MS = 300; // before names that were not read yet are asked for again
const REFRESH_MS = 500; // at least between two, while runs are written
const MARK_MS = 5000; // until new events of a run that is written are marked
const TICK_TIME = "wall_ns";
const OPEN_UP_TO = 60; // names: with more, only the first section is open

export function open(root) {
  const span = new Span();
  const grid = new Grid();
  const place = h("div", {});
  let header = null;
  let names = null;
  let resources = [];
  let events = { marks: [], notice: null };
  let groups = null;
  let drawn = "";
  let naming = null;
  let marking = null;

  const ids = () => {
    const list = state.run ? [state.run] : shownIds();
    return state.pin && !list.includes(state.pin) ? [...list, state.pin] : list;
  };

  const filter = h("input", {
    type: "search",
    class: "field",
    placeholder: t("metrics.filter"),
    "aria-label": t("metrics.filter"),
    value: state.filter ?? "",
    on: { input: () => go({ filter: filter.value.trim() || undefined }, { replace: true }) },
  });
  const bar = h("div", { class: "toolbar" });
  const told = h("p", { class: "notice", hidden: true });

  function toolbar(keys) {
    fill(
      bar,
      filter,
      select("x", t("axis.x"), AXES, "tick", (axis) => t(`x.${axis}`)),
      choice("y", t("axis.y"), SCALES, "linear"),
      fitting(),
      smoothing(),
      !state.run && select("group", t("group.by"), ["", ...keys], "", (key) => key || t("group.none")),
      zoomButtons(span),
    );
  }

  async function build() {
    const wanted = ids();
    drawn = JSON.stringify(wanted);
    clearTimeout(naming);
    [groups, resources] = [null, []];
    events = { marks: [], notice: null };
    grid.clear();
    header = state.run ? runHeader(state.run) : null;
    fill(root, header?.element ?? h("h1", { class: "sr" }, t("view.metrics")), bar, told, place);
    told.hidden = true;
    if (!wanted.length) {
      fill(place, nothing());
      return;
    }
    fill(place, skeleton());
    let keys = [];
    try {
      if (state.run) {
        const info = await infoOf(state.run);
        [names, resources] = [info.metrics, info.resources];
      } else {
        const known = await getJson("columns", { runs: wanted });
        const grouped = await groupsOf(wanted, state.group);
        if (drawn !== JSON.stringify(wanted)) return;
        [names, keys, groups] = [known.metrics, known.differing, grouped];
        if (known.waiting) naming = setTimeout(build, WAIT_MS);
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(place, failure(error, build));
      return;
    }
    if (drawn !== JSON.stringify(wanted)) return;
    toolbar(keys);
    sections();
    if (state.run) await mark();
  }

  /** Mark the events of the run in its charts. */
  async function mark() {
    marking = null;
    const [run, { x }] = [state.run, settings()];
    const found = await eventMarks(run, x).catch(() => null);
    if (!found || run !== state.run || x !== settings().x) return;
    events = found;
    told.hidden = !events.notice;
    told.textContent = events.notice ?? "";
    for (const card of grid.cards.values()) card.events = events.marks;
    grid.redraw();
  }

  function add(card) {
    card.events = events.marks;
    return grid.add(card);
  }

  function sections() {
    grid.clear();
    const wanted = state.filter?.toLowerCase();
    const listed = wanted ? names.filter((name) => name.toLowerCase().includes(wanted)) : names;
    if (!listed.length) {
      fill(place, names.length ? empty(t("metrics.notfound", { text: state.filter })) : empty(t("metrics.empty"), t("metrics.empty.why"), 'clock.log(loss=loss)'));
      return;
    }
    const all = sectionsOf(listed).map(([prefix, own], i) => () => {
      const title = prefix.replace(/[_./]$/, "") || t("metrics.plain");
      return section(title, own, (name) => cardOf(name, prefix), i === 0 || Boolean(wanted) || listed.length <= OPEN_UP_TO);
    });
    fill(place, inPortions(h("div", {}), all, SECTIONS), state.run && !wanted && beside());
  }

  /** The first elements that are made, in a place, and a button for the next ones. */
  function inPortions(where, makers, count) {
    const more = h("button", { type: "button", on: { click: () => next() } });
    let shown = 0;
    const next = () => {
      for (const make of makers.slice(shown, shown + count)) where.append(make());
      shown = Math.min(makers.length, shown + count);
      more.textContent = t("metrics.more", { shown: format.whole(shown), all: format.whole(makers.length) });
      more.hidden = shown >= makers.length;
    };
    next();
    return [where, more];
  }

  /** The time and the machine of one run, under the same cursor as its metrics. */
  function beside() {
    const time = h("div", { class: "cards" }, settings().x === "tick" && add(phaseCard(state.run, span)), add(cardOf(TICK_TIME, "", { title: t("ticks.time"), formatY: format.duration })));
    return [
      h("details", { class: "section", open: true }, h("summary", {}, t("view.ticks")), time),
      resources.length > 0 && section(t("view.resources"), resources, (name) => resourceCard(state.run, name, span, settings), true),
    ];
  }

  function section(title, own, make, isOpen) {
    const makers = own.map((name) => () => add(make(name)));
    const content = () => inPortions(h("div", { class: "cards" }), makers, CARDS);
    const details = h(
      "details",
      { class: "section", open: isOpen },
      h("summary", {}, title, h("span", { class: "dim" }, format.whole(own.length))),
      isOpen && content(),
    );
    let isFilled = isOpen;
    details.addEventListener("toggle", () => {
      if (!details.open || isFilled) return;
      isFilled = true;
      details.append(...content());
    });
    return details;
  }

  function cardOf(name, prefix, { title = name, formatY } = {}) {
    return new ChartCard({
      title,
      formatY,
      dimTitle: prefix && name.startsWith(prefix) && name !== prefix ? prefix : "",
      span,
      settings,
      load: (request, signal) =>
        loadMetric(ids(), name, request, signal, { ghosts: Boolean(state.run), groups }),
    });
  }

  const refresh = paced(() => {
    const past = span.chosen && !span.follow && span.extent && span.chosen[1] < span.extent[1];
    if (document.hidden) return null;
    if (state.run) marking ??= setTimeout(mark, MARK_MS);
    return past ? null : grid.live();
  }, REFRESH_MS);

  const off = onFound(() => JSON.stringify(ids()) !== drawn && build());
  build();
  return {
    update(keys) {
      if (["run", "shown", "pin", "group"].some((key) => keys.has(key))) {
        if (keys.has("run")) span.forget();
        span.read();
        build();
        return;
      }
      if (keys.has("x")) {
        span.forget();
        go({ from: undefined, to: undefined, follow: undefined }, { replace: true });
        span.read();
        build();
        return;
      }
      if (keys.has("filter")) {
        filter.value = document.activeElement === filter ? filter.value : (state.filter ?? "");
        sections();
      }
      if (keys.has("from") || keys.has("to")) {
        const before = JSON.stringify(span.chosen);
        span.read();
        if (before !== JSON.stringify(span.chosen)) span.tell("move");
      }
      grid.refresh();
    },
    runs(changed) {
      header?.update();
      if (changed === null) {
        if (JSON.stringify(ids()) !== drawn) build();
      } else if (changed.some((id) => ids().includes(id))) {
        refresh();
      }
    },
    close() {
      off();
      refresh.close();
      for (const each of [naming, marking]) clearTimeout(each);
      grid.clear();
      span.close();
    },
  };
}

function nothing() {
  if (!loaded || !order.length) return noRuns();
  if (!listedIds().length) return empty(t("search.none"), t("search.none.why"));
  return empty(t("metrics.none"), t("metrics.none.why"));
}

const skeleton = () => h("div", { class: "cards" }, Array.from({ length: 6 }, () => h("div", { class: "card skeleton" })));
