// Where an x axis has its labels, and what they say: the same for every kind of chart.

import * as format from "../format.js";

const BELOW_A_SECOND = [1, 2, 5, 10, 20, 50, 100, 200, 500]; // ms
const LONG = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, ...[1, 2, 6, 12, 24, 48, 72, 168, 240].map((hours) => hours * 3600)]; // s
const CLOCK_MS = [...BELOW_A_SECOND, ...LONG.map((s) => s * 1e3)];
const COUNTS = [1, 2, 5, 10, 20, 25, 50, 100];
for (let size = 1000; size <= 1e15; size *= 10) COUNTS.push(size / 5, size / 4, size / 2, size);

/** { steps, space, label(x, step, before) } of an axis; `space` is in CSS pixels. */
export function xAxis(kind) {
  if (kind === "time") return { steps: CLOCK_MS, space: 90, label: clock };
  if (kind === "elapsed" || kind === "training") {
    return { steps: CLOCK_MS.map((ms) => ms * 1e6), space: 80, label: since };
  }
  return { steps: COUNTS, space: 60, label: (x) => (Math.abs(x) >= 1e5 ? format.si(x) : format.whole(x)) };
}

/** Steps of a y axis of bytes: round in the unit that its labels have. */
export function byteSteps(most) {
  const unit = 1024 ** Math.max(0, Math.min(4, Math.floor(Math.log2(Math.max(most, 1)) / 10)));
  const powers = Array.from({ length: 8 }, (_, i) => 10 ** (i - 4));
  return powers.flatMap((power) => [1, 2, 5].map((size) => size * power * unit)).filter((step) => step >= 1);
}

/** The time of day; the first label, and the first of a day, have the date. */
function clock(ms, step, before) {
  const isNewDay = before === undefined || new Date(before).getDate() !== new Date(ms).getDate();
  const words = format.moment(ms, step);
  return isNewDay || step >= 86400e3 ? words : words.slice(words.indexOf(" ") + 1);
}

/** A time since the beginning, so exact that neighbours differ: "250 ms", "1 min 15 s", "10:12:05.25". */
function since(ns, step) {
  const s = Math.abs(ns) / 1e9;
  if (s < 60) return format.duration(ns, Math.max(3, Math.ceil(Math.log10(Math.abs(ns) / step || 1)) + 1));
  if (step >= 60e9 || (s < 3600 && step >= 1e9)) return format.duration(ns);
  const two = (x, decimals = 0) => x.toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
  const decimals = step >= 1e9 ? 0 : Math.min(3, Math.ceil(-Math.log10(step / 1e9)));
  const whole = Number(s.toFixed(decimals));
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60, decimals)}`;
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
