// Where an x axis has its labels, and what they say: the same for every kind of chart.

import * as format from "../format.js";

const SECONDS = [0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 86400, 259200, 864000];
const CLOCK_MS = [1, 10, 100, 1e3, 5e3, 15e3, 30e3, 60e3, 300e3, 900e3, 1800e3, ...[1, 2, 6, 12, 24, 48, 168].map((hours) => hours * 3600e3)];
const COUNTS = [1, 2, 5, 10, 20, 25, 50, 100];
for (let size = 1000; size <= 1e15; size *= 10) COUNTS.push(size / 5, size / 4, size / 2, size);

/** { steps, space, label(x, step, before) } of an axis; `space` is in CSS pixels. */
export function xAxis(kind) {
  if (kind === "time") return { steps: CLOCK_MS, space: 90, label: clock };
  if (kind === "elapsed" || kind === "training") {
    return { steps: SECONDS.map((s) => s * 1e9), space: 80, label: format.duration };
  }
  return { steps: COUNTS, space: 60, label: (x) => (Math.abs(x) >= 1e5 ? format.si(x) : format.whole(x)) };
}

/** The time of day; the first label, and the first of a day, have the date. */
function clock(ms, step, before) {
  const isNewDay = before === undefined || new Date(before).getDate() !== new Date(ms).getDate();
  const words = format.moment(ms, step);
  return isNewDay || step >= 86400e3 ? words : words.slice(words.indexOf(" ") + 1);
}

/** The places of labels in a stretch that is `width` CSS pixels long: [[x, text]]. */
export function labelsOf(kind, [from, to], width) {
  const { steps, space, label } = xAxis(kind);
  const least = ((to - from) * space) / Math.max(width, 1);
  const step = steps.find((each) => each >= least) ?? steps.at(-1);
  const found = [];
  for (let x = Math.ceil(from / step) * step; x <= to; x += step) found.push([x, label(x, step, found.at(-1)?.[0])]);
  return found;
}
