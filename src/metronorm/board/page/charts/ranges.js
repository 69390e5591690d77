// Which values of y a plot shows.

const OUTSIDE = 0.005; // the share of values that a fit may leave out at each end
const AIR = 0.05; // of the length, above and below

/**
 * The lowest and the highest y of a plot: all finite values in the stretch and a little air, or with
 * `fit` all but the rarest. The interval of a mean of two runs can be as wide as you like, so it
 * does not count.
 */
export function rangeOf({ lines, view, y, fit = false, linear = 1 }) {
  const most = fit ? usual(lines, y) : null;
  let [low, high] = most ?? all(lines, view, y);
  if (low > high) return y === "log" ? [0.1, 10] : [0, 1];
  // what differs by rounding only is one value
  if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) low = high;
  if (y === "log") {
    const air = low === high ? 2 : (high / low) ** (AIR / 1.2);
    return [Math.max(low / air, 1e-307), Math.min(high * air, 1e308)]; // a log axis must not reach 0
  }
  if (y === "asinh" && low !== high) {
    const [from, to] = [Math.asinh(low / linear), Math.asinh(high / linear)];
    const air = (to - from) * AIR;
    return [linear * Math.sinh(from - air), linear * Math.sinh(to + air)];
  }
  const air = low === high ? Math.abs(low) * AIR || 1 : (high - low) * AIR;
  return [low - air, high + air];
}

const has = (value, y) => Number.isFinite(value) && (y !== "log" || value > 0);

function all(lines, view, y) {
  let [low, high] = [Infinity, -Infinity];
  const take = (x, value) => {
    if (!has(value, y) || (view && (x < view[0] || x > view[1]))) return;
    if (value < low) low = value;
    if (value > high) high = value;
  };
  for (const { x, y: values, band, isMean } of lines) {
    for (let i = 0; i < x.length; i += 1) take(x[i], values[i]);
    if (!band || isMean) continue;
    for (let i = 0; i < band.x.length; i += 1) {
      take(band.x[i], band.min[i]);
      take(band.x[i], band.max[i]);
    }
  }
  return [low, high];
}

/** From the lowest to the highest after each line has left out its rarest values. */
function usual(lines, y) {
  let [low, high] = [Infinity, -Infinity];
  for (const line of lines) {
    const values = Array.from(line.typical ?? line.y).filter((value) => has(value, y)).sort((a, b) => a - b);
    if (!values.length) continue;
    const out = Math.ceil(OUTSIDE * values.length) * (values.length > 10);
    low = Math.min(low, values[out]);
    high = Math.max(high, values[values.length - 1 - out]);
  }
  return low > high ? null : [low, high];
}

/** In how many pixel columns there are values above and below a range. */
export function outside(lines, [low, high], [from, to], width) {
  const found = { above: 0, below: 0 };
  for (const { x, y } of lines) {
    const last = { above: null, below: null };
    for (let i = 0; i < x.length; i += 1) {
      const where = y[i] > high ? "above" : y[i] < low ? "below" : null;
      if (!where || x[i] < from || x[i] > to) continue;
      const pixel = Math.floor(((x[i] - from) / (to - from)) * width);
      if (last[where] !== pixel) found[where] += 1;
      last[where] = pixel;
    }
  }
  return found;
}
