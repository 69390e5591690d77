// Ticks: where their time goes, how long they take, the slowest, and the ranks beside each other.

import { getJson, ofRun } from "../api.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { heatCard, rowAt } from "../parts/heat_card.js";
import { phaseCard } from "../parts/phase_card.js";
import { runView } from "../parts/run_view.js";
import { tableOf } from "../parts/table_dialog.js";
import { choice, zoomButtons } from "../parts/toolbar.js";
import { link, state } from "../state.js";
import { t } from "../words.js";

const SLOWEST = 20;

export const open = (root) =>
  runView(root, async ({ id, info, bar, place, span, grid }) => {
    const several = info.ranks.length > 1;
    span.air = 0.5; // a tick is as wide as its number: from half a tick before it
    fill(bar, several && choice("ranks", t("ranks.value"), ["wall", "arrival"], "wall", (which) => t(`ranks.${which}`)), zoomButtons(span));
    const slow = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("ticks.slowest") });
    fill(
      place,
      h(
        "div",
        { class: "cards" },
        wide(grid, phaseCard(id, span)),
        wide(grid, tickTimes(id, span)),
        several && wide(grid, ranks(id, span)),
      ),
      h("section", { class: "panel" }, h("h2", {}, t("ticks.slowest")), slow),
    );
    const list = async () => fill(slow, slowTable(id, (await getJson(ofRun(id, "slowest"), { n: SLOWEST })).ticks));
    await list();
    return { refresh: () => list().catch(() => {}), keys: ["ranks"] };
  });

function wide(grid, card) {
  card.element.classList.add("wide", "tall");
  return grid.add(card);
}

const tickTimes = (id, span) =>
  heatCard({
    id,
    route: "ticktimes",
    title: t("ticks.times"),
    words: t("ticks.count"),
    span,
    formatY: format.whole,
    rowsOf({ x, edges, count }) {
      const bins = Math.max(0, edges.length - 1);
      return Array.from({ length: bins }, (_, bin) => ({
        id: String(bin),
        label: `${format.duration(edges[bin])} – ${format.duration(edges[bin + 1])}`,
        x,
        y: Float64Array.from(x, (__, i) => count[i * bins + bin]),
      }));
    },
  });

function ranks(id, span) {
  const value = state.ranks ?? "wall";
  return heatCard({
    id,
    route: "ranks",
    values: { value },
    title: t("ticks.ranks"),
    words: t(`ranks.${value}`),
    span,
    formatY: format.duration,
    rowsOf: (found) =>
      Array.from(found.rank, (number, i) => ({
        id: String(number),
        label: t("rank", { n: number }),
        short: String(number),
        x: found.x,
        y: rowAt(found.value, found.x, i),
      })),
  });
}

function slowTable(id, ticks) {
  const names = [...new Set(ticks.flatMap((tick) => Object.keys(tick.phases)))];
  return tableOf(
    [t("column.tick"), t("ticks.time"), t("attempt"), t("rank", { n: "" }).trim(), ...names],
    ticks.map((each) => [
      h("a", { href: link({ view: "metrics", run: id, x: undefined, from: each.tick - 50, to: each.tick + 50 }) }, format.whole(each.tick)),
      format.duration(each.wall_ns),
      String(each.attempt),
      String(each.rank),
      ...names.map((name) => (each.phases[name] === undefined ? "–" : format.duration(each.phases[name]))),
    ]),
    { caption: t("ticks.slowest.why") },
  );
}
