// A chart in words.

import * as format from "../format.js";
import { t } from "../words.js";

/** The index of the x nearest to this one; x ascends. */
export function nearestIndex(xs, x) {
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}

const REACH = 1 / 80; // of what is shown

/** The index of the point of a line that a cursor is at; -1 beyond the ends of the line. */
export function indexUnder(xs, x, [from, to]) {
  const reach = (to - from) * REACH;
  if (!xs.length || x < xs[0] - reach || x > xs[xs.length - 1] + reach) return -1;
  return nearestIndex(xs, x);
}

/** A place on the x axis: "tick 1,240", "12.4M tokens", "11-30 14:03:22". */
export function xWords(kind, x) {
  if (kind === "time") return format.moment(x, 1000);
  if (kind === "elapsed" || kind === "training") return format.duration(x);
  return t(`at.${kind}`, { x: kind === "tokens" ? format.si(x) : format.whole(x) });
}

/** "loss: a chart of 3 lines. From tick 1 to tick 2,000. baseline: from 4.2 to 1.3, lowest ..." */
export function describe({ title, listed: lines, span, settings, formatY }) {
  const { x } = settings();
  const parts = [t("chart.describe", { title, n: lines.length })];
  if (span.now) parts.push(t("chart.fromto", { from: xWords(x, span.now[0]), to: xWords(x, span.now[1]) }));
  for (const line of lines.slice(0, 5)) {
    const finite = Array.from(line.y).filter(Number.isFinite);
    if (!finite.length) continue;
    let [low, high] = [Infinity, -Infinity];
    for (const y of finite) {
      low = Math.min(low, y);
      high = Math.max(high, y);
    }
    parts.push(
      t("chart.line", { label: line.label, low: formatY(low), high: formatY(high), last: formatY(finite.at(-1)) }),
    );
  }
  parts.push(t("chart.keys"));
  return parts.join(" ");
}
