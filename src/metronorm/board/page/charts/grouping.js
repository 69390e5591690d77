// Runs of one group as one line: their mean at every pixel, and the interval that holds the mean of
// all such runs with 95 %.

import { colorOf } from "../colors.js";
import { t } from "../words.js";

// the 97.5 % quantile of Student's t distribution, by degrees of freedom
const QUANTILES = [NaN, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.101, 2.093, 2.086];
const quantile = (freedom) => QUANTILES[freedom] ?? 1.96 + 2.5 / freedom;

/** groups: Map(label -> ids). A group of one run keeps its line. */
export function grouped(lines, groups, extent, width) {
  const found = [];
  let number = 0;
  for (const [label, ids] of groups) {
    const own = lines.filter((line) => ids.includes(line.id) && line.x.length);
    const color = colorOf(number++);
    if (own.length === 1) found.push({ ...own[0], label, color, dash: [] });
    else if (own.length) found.push({ ...meanOf(own, extent, width), id: `group ${label}`, label: t("group.of", { label, n: own.length }), color, width: 2 });
  }
  return found;
}

function meanOf(lines, [first, last], width) {
  const count = Math.max(2, Math.min(width || 500, Math.max(...lines.map((line) => line.x.length))));
  const x = Float64Array.from({ length: count }, (_, i) => first + (i * (last - first)) / (count - 1));
  const y = new Float64Array(count).fill(NaN);
  const band = { x, min: new Float64Array(count).fill(NaN), max: new Float64Array(count).fill(NaN) };
  const places = lines.map(() => 0);
  for (let i = 0; i < count; i += 1) {
    const values = lines.map((line, k) => between(line, x[i], places, k)).filter(Number.isFinite);
    if (!values.length) continue;
    const mean = values.reduce((sum, each) => sum + each, 0) / values.length;
    y[i] = mean;
    if (values.length < 2) continue;
    const variance = values.reduce((sum, each) => sum + (each - mean) ** 2, 0) / (values.length - 1);
    const half = quantile(values.length - 1) * Math.sqrt(variance / values.length);
    band.min[i] = mean - half;
    band.max[i] = mean + half;
  }
  return { x, y, band, isMean: true, rails: {}, counts: {} };
}

/** The value of a line at x, on the straight between its neighbours; NaN outside of the line. */
function between(line, x, places, k) {
  const { x: xs, y: ys } = line;
  let at = places[k];
  while (at + 1 < xs.length && xs[at + 1] <= x) at += 1;
  places[k] = at;
  if (x < xs[0] || x > xs.at(-1)) return NaN;
  if (at + 1 >= xs.length || xs[at] === x) return ys[at];
  return ys[at] + ((x - xs[at]) / (xs[at + 1] - xs[at])) * (ys[at + 1] - ys[at]);
}
