// What a plot draws besides its lines: the band from the lowest to the highest value, events, and
// the rails for values that have no place on the axis.
//
// | mark | where | means |
// | --- | --- | --- |
// | × | rail above | NaN |
// | ▲ | rail above | +Inf |
// | ▼ | foot of the plot | −Inf |
// | short stroke | foot of the plot | a value of 0 or less on a log axis |
// | thin line with a flag | rail above | an event |
// | arrow | edges of the plot | a value that a fitted range leaves out |

import { faded, themed } from "../colors.js";

export function drawBands(u, lines) {
  const { ctx } = u;
  clipped(u, () => {
    for (const { band, color } of lines) {
      if (!band || band.x.length < 2) continue;
      ctx.fillStyle = faded(color, 0.18);
      ctx.beginPath();
      let open = false;
      let from = 0;
      for (let i = 0; i <= band.x.length; i += 1) {
        const here = i < band.x.length && Number.isFinite(band.min[i]);
        if (here && !open) from = i;
        if (!here && open) outline(u, band, from, i);
        open = here;
      }
      ctx.fill();
    }
  });
}

function outline(u, band, from, to) {
  const { ctx } = u;
  const y = (value) => u.valToPos(safe(u, value), "y", true);
  for (let i = from; i < to; i += 1) ctx[i === from ? "moveTo" : "lineTo"](u.valToPos(band.x[i], "x", true), y(band.max[i]));
  for (let i = to - 1; i >= from; i -= 1) ctx.lineTo(u.valToPos(band.x[i], "x", true), y(band.min[i]));
  ctx.closePath();
}

// a log axis has no place for 0
const safe = (u, value) => (u.scales.y.distr === 3 && value <= 0 ? u.scales.y.min : value);

export function drawEvents(u, events) {
  const { ctx, bbox } = u;
  const px = uPlot.pxRatio;
  ctx.save();
  for (const { x, kind } of events) {
    if (x < u.scales.x.min || x > u.scales.x.max) continue;
    const left = Math.round(u.valToPos(x, "x", true)) + 0.5;
    const color = themed(kind === "bad" ? "bad" : kind === "resume" ? "accent" : "dim");
    ctx.strokeStyle = faded(color, kind === "bad" ? 0.7 : 0.4);
    ctx.fillStyle = color;
    ctx.lineWidth = px;
    ctx.setLineDash([3 * px, 3 * px]);
    ctx.beginPath();
    ctx.moveTo(left, bbox.top - 6 * px);
    ctx.lineTo(left, bbox.top + bbox.height);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(left, bbox.top - 13 * px);
    ctx.lineTo(left + 6 * px, bbox.top - 9.5 * px);
    ctx.lineTo(left, bbox.top - 6 * px);
    ctx.fill();
  }
  ctx.restore();
}

export function drawRails(u, lines) {
  const { ctx, bbox } = u;
  const px = uPlot.pxRatio;
  const foot = bbox.top + bbox.height;
  ctx.save();
  ctx.lineWidth = 1.5 * px;
  for (const { rails, color } of lines) {
    if (!rails) continue;
    ctx.strokeStyle = ctx.fillStyle = color;
    each(u, rails.nan, (x) => {
      const [y, r] = [bbox.top - 6 * px, 3 * px];
      ctx.beginPath();
      ctx.moveTo(x - r, y - r);
      ctx.lineTo(x + r, y + r);
      ctx.moveTo(x + r, y - r);
      ctx.lineTo(x - r, y + r);
      ctx.stroke();
    });
    each(u, rails.inf, (x) => triangle(ctx, x, bbox.top - 2 * px, -7 * px, 4 * px));
    each(u, rails["-inf"], (x) => triangle(ctx, x, foot - 8 * px, 7 * px, 4 * px));
    each(u, rails.nonpositive, (x) => ctx.fillRect(x - px, foot - 6 * px, 2 * px, 6 * px));
  }
  ctx.restore();
}

/** Arrows at the edges, where a fitted range leaves values out. */
export function drawOutside(u, lines) {
  const { ctx, bbox } = u;
  const px = uPlot.pxRatio;
  const { min, max } = u.scales.y;
  ctx.save();
  for (const { x, y, color } of lines) {
    ctx.fillStyle = color;
    for (let i = 0; i < x.length; i += 1) {
      if (x[i] < u.scales.x.min || x[i] > u.scales.x.max) continue;
      if (y[i] > max) triangle(ctx, u.valToPos(x[i], "x", true), bbox.top + 7 * px, -6 * px, 4 * px);
      else if (y[i] < min) triangle(ctx, u.valToPos(x[i], "x", true), bbox.top + bbox.height - 7 * px, 6 * px, 4 * px);
    }
  }
  ctx.restore();
}

function triangle(ctx, x, base, height, half) {
  ctx.beginPath();
  ctx.moveTo(x - half, base);
  ctx.lineTo(x + half, base);
  ctx.lineTo(x, base + height);
  ctx.fill();
}

function each(u, places, draw) {
  if (!places) return;
  for (const x of places) {
    if (x >= u.scales.x.min && x <= u.scales.x.max) draw(u.valToPos(x, "x", true));
  }
}

function clipped(u, draw) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  draw();
  ctx.restore();
}
