// Options: what the runs that are listed were given, and what came of it. Parallel coordinates of
// the options that differ, and a measure over each of them: the trials of a study, or any runs.

import { ApiError, getJson } from "../api.js";
import { parallel, slice } from "../charts/parallel.js";
import { fill, h } from "../dom.js";
import { empty, failure, noRuns } from "../parts/messages.js";
import { select } from "../parts/toolbar.js";
import { getRun, listedIds, loaded, notices, onFound, order } from "../runs.js";
import { state } from "../state.js";
import { t } from "../words.js";

const MOST_OPTIONS = 12; // axes side by side
const MOST_RUNS = 500;
const REFRESH_MS = 5000; // while runs are written
const AGAIN_MS = 500; // before values that were not read yet are asked for again
const HOWS = ["last", "best"];

export function open(root) {
  const bar = h("div", { class: "toolbar" });
  const told = h("div", {});
  const place = h("div", {});
  let known = { metrics: [], differing: [] };
  let timer = null;
  let closed = false;

  const metric = () => {
    if (known.metrics.includes(state.metric)) return state.metric;
    return known.metrics.find((name) => /^(validation|val|eval)_.*loss/.test(name)) ?? known.metrics.find((name) => name === "loss") ?? known.metrics[0];
  };
  const how = () => (HOWS.includes(state.how) ? state.how : HOWS[0]);

  async function draw() {
    clearTimeout(timer);
    const ids = listedIds().slice(0, MOST_RUNS);
    if (!ids.length) {
      fill(place, order.length ? empty(t("search.none"), t("search.none.why")) : loaded ? noRuns() : null);
      return;
    }
    try {
      known = await getJson("columns", { runs: ids.length < order.length ? ids : undefined });
      const options = known.differing.slice(0, 100);
      const measure = metric();
      const columns = [...options.map((name) => `config:${name}`), ...(measure ? [`${how()}:${measure}`] : [])].slice(-100);
      const answer = columns.length ? await getJson("table", { columns, runs: ids }) : { rows: {} };
      if (closed) return;
      toolbar(measure);
      show(ids, options, measure, answer.rows);
      fill(told);
      if (known.waiting || answer.waiting?.length) timer = setTimeout(draw, AGAIN_MS);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fill(told, failure(error, draw));
    }
  }

  function toolbar(measure) {
    fill(
      bar,
      known.metrics.length > 0 && select("metric", t("metric"), known.metrics.slice(0, 500), measure, (name) => name, { quiet: true }),
      select("how", t("options.how"), HOWS, HOWS[0], (name) => t(`column.${name}`)),
    );
  }

  function show(ids, options, measure, rows) {
    const all = ids.filter((id) => rows[id]).map((id) => ({ label: getRun(id)?.label ?? id, row: rows[id] }));
    const at = (each, name) => each.row[`config:${name}`];
    const differ = options.filter((name) => new Set(all.map((each) => JSON.stringify(at(each, name)))).size > 1);
    if (!measure || !differ.length) {
      fill(place, empty(t("options.none"), t("options.none.why"), "metronorm tune --preset quick --budget 10m"));
      return;
    }
    const names = differ.slice(0, MOST_OPTIONS);
    const value = (each) => each.row[`${how()}:${measure}`];
    const words = t("options.lines", { n: all.length, measure });
    fill(
      place,
      h("p", { class: "dim" }, `${words} `, differ.length > names.length && t("options.more", { shown: names.length, all: differ.length })),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": words },
        parallel({ names: [...names, measure], rows: all.map((each) => ({ label: each.label, values: [...names.map((name) => at(each, name)), value(each)] })), words }),
      ),
      h(
        "div",
        { class: "panels" },
        names.map((name) =>
          h(
            "section",
            { class: "panel" },
            h("h2", {}, name),
            slice({ name, measure, rows: all.map((each) => ({ label: each.label, at: at(each, name), value: value(each) })), words: t("options.slice", { name, measure }) }),
          ),
        ),
      ),
    );
  }

  fill(root, h("h1", { class: "sr" }, t("view.options")), bar, notices.map((notice) => h("p", { class: "notice" }, notice)), told, place);
  const off = onFound(draw);
  draw();
  return {
    update(keys) {
      if (["metric", "how", "hidden"].some((key) => keys.has(key))) draw();
    },
    runs() {
      timer ??= setTimeout(() => {
        timer = null;
        if (!document.hidden) draw();
      }, REFRESH_MS);
    },
    close() {
      closed = true;
      off();
      clearTimeout(timer);
    },
  };
}
