// Runs: one chart over all runs that are shown, and the table of all that are listed.

import { ApiError, getJson } from "../api.js";
import { ChartCard } from "../charts/card.js";
import { indexUnder } from "../charts/describing.js";
import { Grid } from "../charts/grid.js";
import { paced } from "../charts/pace.js";
import { Span } from "../charts/span.js";
import { fill, h, icon } from "../dom.js";
import { pickColumns } from "../parts/column_picker.js";
import { grouping } from "../parts/groups.js";
import { empty, failure, noRuns } from "../parts/messages.js";
import { loadMetric, settings } from "../parts/metric_lines.js";
import { runTable, split } from "../parts/run_table.js";
import { AXES, SCALES, choice, fitting, select, smoothing, zoomButtons } from "../parts/toolbar.js";
import { listedIds, loaded, notices, onFound, order, shownIds } from "../runs.js";
import { go, state } from "../state.js";
import { t } from "../words.js";

const REFRESH_MS = 2000; // of values in the table, while runs are written
const WAIT_MS = 300; // before values that were not read yet are asked for again
const NO_GROUP = "";

const waitingCard = () => h("div", { class: "card wide skeleton" });

export function open(root) {
  const span = new Span();
  const grid = new Grid();
  const chart = h("div", { class: "overview" });
  const bar = h("div", { class: "toolbar" });
  const place = h("div", { class: "scroll table-place", tabindex: "0", role: "region", "aria-label": t("view.runs") });
  const told = h("div", {});
  let known = { metrics: [], config: [], differing: [] };
  let values = {}; // id -> column -> value
  let table = null;
  let card = null;
  let drawn = "";

  const columns = () => state.cols ?? usual();
  function usual() {
    const found = known.metrics.includes("loss") ? ["last:loss", "best:loss"] : known.metrics.slice(0, 2).map((name) => `last:${name}`);
    const evaluated = known.metrics.find((name) => /^(validation|val|eval)_.*loss/.test(name));
    return evaluated ? [...found, `best:${evaluated}`] : found;
  }
  const metric = () => state.metric ?? (known.metrics.includes("loss") ? "loss" : known.metrics[0]);

  function cell(id, column) {
    if (split(column)[0] === "cursor") return underCursor(id);
    return values[id]?.[column];
  }

  function underCursor(id) {
    const line = card?.lines.find((each) => each.id === id);
    if (!line?.x.length) return null;
    const x = span.cursor;
    return line.y[Number.isFinite(x) ? indexUnder(line.x, x, span.now) : line.x.length - 1];
  }

  /** The server gives what it has read until now: ask again for the rest. */
  let asking = null;
  function later(ids) {
    clearTimeout(asking);
    asking = setTimeout(async () => {
      await load(ids.filter((id) => order.includes(id)));
      show();
    }, WAIT_MS);
  }

  function groups(ids) {
    return state.group ? grouping(ids, (id) => values[id]?.[`config:${state.group}`]) : null;
  }

  function draw() {
    table?.close();
    const ids = listedIds();
    drawn = JSON.stringify([ids, columns()]);
    count.textContent = t("table.listed", { shown: ids.length, all: order.length });
    if (!ids.length) {
      table = null;
      fill(place, order.length ? empty(t("search.none"), t("search.none.why")) : loaded ? noRuns() : null);
      return;
    }
    table = runTable({ ids, columns: columns(), cells: cell, groups: groups(ids) });
    fill(place, table.element);
  }

  /** Put values into the table; where they decide the order, it is made anew. */
  function show() {
    const column = (state.sort ?? "").replace(/^-/, "");
    if (state.group || columns().includes(column)) draw();
    else for (const row of table?.rows.values() ?? []) row.values();
  }

  async function load(ids = listedIds()) {
    const wanted = columns().filter((column) => split(column)[0] !== "cursor");
    if (state.group) wanted.push(`config:${state.group}`);
    if (!wanted.length || !ids.length) return;
    try {
      const all = ids.length === order.length;
      const answer = await getJson("table", { columns: wanted, runs: all ? undefined : ids });
      for (const [id, row] of Object.entries(answer.rows)) values[id] = { ...values[id], ...row };
      fill(told);
      if (answer.waiting?.length) later(answer.waiting);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(told, failure(error, () => load().then(draw)));
    }
  }

  function toolbar() {
    fill(
      bar,
      known.metrics.length > 0 && select("metric", t("metric"), known.metrics.slice(0, 500), "loss", (name) => name, { quiet: true }),
      select("x", t("axis.x"), AXES, "tick", (axis) => t(`x.${axis}`)),
      choice("y", t("axis.y"), SCALES, "linear"),
      fitting(),
      smoothing(),
      known.differing.length > 0 && select("group", t("group.by"), [NO_GROUP, ...known.differing], NO_GROUP, (key) => key || t("group.none")),
      zoomButtons(span),
    );
  }

  const count = h("span", { class: "dim" });
  const tableBar = h(
    "div",
    { class: "table-bar" },
    h("h2", {}, t("view.runs")),
    count,
    h(
      "label",
      { class: "check" },
      h("input", { type: "checkbox", checked: Boolean(state.hidden), on: { change: (event) => go({ hidden: event.target.checked ? 1 : undefined }, { replace: true }) } }),
      t("hidden.show"),
    ),
    h("button", { type: "button", class: "quiet", on: { click: () => pickColumns(known, columns()) } }, icon("columns"), t("columns")),
  );

  function chartOf() {
    grid.clear();
    card = null;
    const ids = shownIds();
    if (!metric() || !ids.length) {
      fill(chart, known.waiting > 0 && waitingCard()); // the place stays while names are still read
      return;
    }
    const all = () => (state.pin && !shownIds().includes(state.pin) ? [...shownIds(), state.pin] : shownIds());
    card = new ChartCard({
      title: metric(),
      span,
      settings,
      load: (request, signal) => loadMetric(all(), metric(), request, signal, { groups: groups(all()) }),
    });
    card.element.classList.add("wide");
    fill(chart, grid.add(card));
  }

  span.on((what) => {
    if (what !== "cursor" || !table || !columns().includes("cursor:")) return;
    for (const id of shownIds()) table.rows.get(id)?.cell("cursor:");
  });

  async function begin() {
    fill(chart, order.length > 0 && waitingCard());
    fill(root, h("h1", { class: "sr" }, t("view.runs")), bar, notices.map((notice) => h("p", { class: "notice" }, notice)), chart, tableBar, told, place);
    draw();
    try {
      known = await getJson("columns");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(told, failure(error, begin));
    }
    toolbar();
    chartOf();
    draw();
    await load();
    show();
    if (state.group) card?.fetch();
    if (known.waiting) naming ??= setTimeout(moreNames, WAIT_MS);
  }

  /** Names of metrics come bit by bit where there are many runs. */
  let naming = null;
  async function moreNames() {
    naming = null;
    const before = [metric(), String(columns())];
    known = await getJson("columns").catch(() => known);
    toolbar();
    if (metric() !== before[0]) chartOf();
    if (String(columns()) !== before[1]) await load().then(draw);
    if (known.waiting) naming ??= setTimeout(moreNames, WAIT_MS);
  }

  const waiting = new Set();
  const refresh = paced(async () => {
    const changed = [...waiting];
    waiting.clear();
    if (document.hidden) return;
    await load(changed);
    for (const id of changed) table?.rows.get(id)?.update();
    if (changed.some((id) => shownIds().includes(id))) await grid.live();
  }, REFRESH_MS);

  const off = onFound(() => {
    draw();
    if (card && shownIds().length) card.fetch();
    else chartOf();
  });
  begin();
  return {
    async update(keys) {
      if (keys.has("cols") || keys.has("group")) {
        await load();
        toolbar();
      }
      if (["cols", "group", "sort", "pin", "hidden", "shown"].some((key) => keys.has(key))) draw();
      if (keys.has("x")) {
        span.forget();
        span.chosen = null;
        go({ from: undefined, to: undefined, follow: undefined }, { replace: true });
      }
      if (keys.has("metric")) {
        toolbar();
        chartOf();
      } else if (["shown", "pin"].some((key) => keys.has(key)) && !card) chartOf();
      else card?.fetch();
    },
    runs(ids) {
      // a new run may log other metrics, and those of a run that has just begun are not known yet
      if (ids === null || !known.metrics.length) naming ??= setTimeout(moreNames, WAIT_MS);
      if (ids === null) {
        const before = drawn;
        draw();
        if (before !== drawn) load().then(draw).then(() => (card ? card.fetch() : chartOf()));
        return;
      }
      for (const id of ids) table?.rows.get(id)?.update();
      if (ids.some((id) => table && !table.ids.has(id))) draw();
      for (const id of ids) waiting.add(id);
      refresh();
    },
    close() {
      off();
      table?.close();
      refresh.close();
      for (const each of [asking, naming]) clearTimeout(each);
      grid.clear();
      span.close();
    },
  };
}
