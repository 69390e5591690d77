// The lines of one metric: of every run that is shown, or of groups of runs.

import { colorOf, dashOf, themed } from "../colors.js";
import { askSeries } from "../charts/series.js";
import { grouped } from "../charts/grouping.js";
import { distinct } from "../format.js";
import { getRun } from "../runs.js";
import { state } from "../state.js";
import { t } from "../words.js";

/** How x, y, smoothing and the fit of y stand in the address. */
export function settings() {
  return { x: state.x ?? "tick", y: state.y ?? "linear", smooth: Number(state.smooth ?? 0), fit: Boolean(state.fit) };
}

/**
 * Load one metric. ids: of the runs. groups: null, or Map(label -> ids).
 * Returns what a `ChartCard` wants.
 */
export async function loadMetric(ids, name, { from, to, width, left, ratio, live }, signal, { ghosts = false, groups = null, route = "series", settings: own = settings } = {}) {
  const { x, y, smooth } = own();
  const values = { x, y, from, to, width, left, ratio, smooth: smooth || undefined, ghosts: ghosts ? 1 : undefined, live: live ? 1 : undefined };
  const found = await askSeries(ids, name, values, signal, route);
  const failed = found.find(({ error }) => error);
  const series = found.map((each, i) => ({ id: ids[i], ...each })).filter(({ error }) => !error);
  if (failed && !series.length) throw failed.error;
  const extents = series.map(({ meta }) => meta.extent).filter((each) => each && Number.isFinite(each[0]));
  const extent = extents.length ? [Math.min(...extents.map(([a]) => a)), Math.max(...extents.map(([, b]) => b))] : null;
  const drawn = series.filter(({ line }) => line && (line.x.length || line.counts.rows));
  const names = distinct(drawn.map(({ id }) => getRun(id)?.label ?? id));
  let lines = drawn.map((each, i) => lineOf(each.id, each.line, names[i]));
  for (const each of drawn) for (const ghost of each.ghosts) lines.push(ghostOf(each.id, ghost));
  if (groups) lines = grouped(lines, groups, extent, width);
  return {
    lines: lines.sort((a, b) => (a.front ?? 0) - (b.front ?? 0)),
    extent,
    several: ids.length > 1,
    uneven: extents.some(([a, b]) => a !== extent[0] || b !== extent[1]),
    hidden: failed ? t("chart.failed", { n: ids.length - series.length }) : null,
  };
}

function lineOf(id, { x, y, gaps, typical, band, rails, counts, rate }, label) {
  const run = getRun(id);
  const pinned = id === state.pin;
  return {
    id,
    label,
    x,
    y,
    gaps,
    typical,
    band,
    rails,
    counts,
    rate,
    color: pinned ? themed("ink") : colorOf(run?.color),
    dash: pinned ? [] : dashOf(run?.color),
    width: pinned ? 2.5 : 1.5,
    front: pinned ? 1 : 0,
  };
}

/** Ticks that a resume has replaced: the line of their attempt, faint and dashed. */
function ghostOf(id, { ghost, x, y, gaps, rails }) {
  return {
    id: `${id} ${ghost.attempt}`,
    label: t("ghost", { attempt: ghost.attempt }),
    x,
    y,
    gaps,
    rails,
    color: colorOf(getRun(id)?.color),
    dash: [4, 4],
    width: 1,
    faint: true,
    front: -1,
  };
}
