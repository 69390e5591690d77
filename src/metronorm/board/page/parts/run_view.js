// What the views of one run have in common: its head, a toolbar, cards over one stretch of x, and
// what happens when another run is chosen or this one goes on.

import { ApiError } from "../api.js";
import { Grid } from "../charts/grid.js";
import { paced } from "../charts/pace.js";
import { Span } from "../charts/span.js";
import { fill, h } from "../dom.js";
import { focusId, getRun, infoOf, loaded, order } from "../runs.js";
import { state } from "../state.js";
import { t } from "../words.js";
import { empty, failure, noRuns } from "./messages.js";
import { runHeader } from "./run_header.js";

const REFRESH_MS = 1000;

/**
 * build({ id, info, bar, place, span, grid }): fills bar and place; may return { refresh() } for
 * when the run goes on. hasBar: whether there is a toolbar.
 */
export function runView(root, build, { hasBar = true } = {}) {
  const bar = h("div", { class: "toolbar" });
  const place = h("div", {});
  const grid = new Grid();
  let span = new Span();
  let header = null;
  let built = null;
  let number = 0;

  async function begin() {
    const mine = (number += 1);
    const id = focusId();
    grid.clear();
    span.close();
    span = new Span();
    built = null;
    if (!id || !getRun(id)) {
      fill(root, h("h1", { class: "sr" }, t("runs")), place);
      fill(place, state.run ? empty(t("run.unknown"), t("run.unknown.why")) : nothing());
      return;
    }
    header = runHeader(id);
    fill(bar);
    fill(root, header.element, hasBar && bar, place);
    fill(place, h("div", { class: "cards" }, h("div", { class: "card skeleton" }), h("div", { class: "card skeleton" })));
    try {
      const info = await infoOf(id);
      if (mine !== number) return;
      built = (await build({ id, info, bar, place, span, grid })) ?? {};
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (mine === number) fill(place, failure(error, begin));
    }
  }

  const goOn = paced(() => {
    if (document.hidden) return null;
    built?.refresh?.();
    return grid.live();
  }, REFRESH_MS);
  begin();
  return {
    update(keys) {
      if (["run", ...(built?.keys ?? [])].some((key) => keys.has(key))) {
        begin();
        return;
      }
      if (keys.has("from") || keys.has("to")) {
        const before = String(span.chosen);
        span.read();
        if (before !== String(span.chosen)) span.tell("move");
      }
      if (["from", "to", "y", "smooth", "fit"].some((key) => keys.has(key))) grid.refresh();
    },
    runs(ids) {
      header?.update();
      if (ids === null) {
        if (!built) begin();
      } else if (ids.includes(focusId())) {
        goOn();
      }
    },
    close() {
      number += 1;
      goOn.close();
      grid.clear();
      span.close();
    },
  };
}

const nothing = () => (loaded && order.length ? empty(t("metrics.none"), t("metrics.none.why")) : noRuns());
