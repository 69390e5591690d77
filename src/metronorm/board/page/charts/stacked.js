// Phases on top of each other: each column is the mean of some ticks, and the phases add up to the
// time of a tick.

import * as format from "../format.js";
import { edges } from "./field.js";

/** A painter for `Field`. The lines are phases with the same x; found.step is how many ticks one
 * column stands for. */
export const stacked = {
  paint(ctx, area, what) {
    const { lines, found } = what;
    if (!lines.length) return;
    const most = mostOf(what);
    const xs = lines[0].x;
    const base = new Float64Array(xs.length);
    for (const line of lines) {
      ctx.fillStyle = line.color;
      for (let i = 0; i < xs.length; i += 1) {
        const y = line.y[i];
        if (!(y > 0)) continue;
        const [left, right] = edges(xs[i], found.step).map(area.x);
        if (right < area.left || left > area.left + area.width) continue;
        const from = area.y(base[i] / most);
        base[i] += y;
        const to = area.y(base[i] / most);
        ctx.fillRect(left, to, Math.max(right - left, area.pixel), from - to);
      }
    }
  },

  yLabels(what) {
    const most = mostOf(what);
    const step = niceStep(most / 4);
    const found = [];
    for (let y = 0; y <= most * 1.0001; y += step) found.push([y / most, y ? format.duration(y) : "0"]);
    return found;
  },
};

/** A little more than the longest column in view, ns. */
function mostOf({ lines, view, found }) {
  if (!lines.length) return 1;
  const xs = lines[0].x;
  let most = 0;
  for (let i = 0; i < xs.length; i += 1) {
    const [left, right] = edges(xs[i], found.step);
    if (right < view[0] || left > view[1]) continue;
    let sum = 0;
    for (const line of lines) sum += line.y[i] > 0 ? line.y[i] : 0;
    most = Math.max(most, sum);
  }
  return most * 1.05 || 1;
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((each) => each * power >= least) * power;
}
