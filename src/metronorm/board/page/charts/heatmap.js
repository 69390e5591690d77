// A heat map: the lines are its rows, from the bottom up, all with the same x. The colour goes with
// the square root of the value, so that what is rare shows.

import { heat } from "../colors.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { edges } from "./field.js";

const LABEL = 16; // CSS pixels between labels of rows

/** A painter for `Field`. found: { step, edges? }: with edges, labels stand between the rows. */
export const heatmap = {
  paint(ctx, area, { lines, found }) {
    if (!lines.length) return;
    const [low, high] = boundsOf(lines);
    lines.forEach((line, row) => {
      const top = area.y((row + 1) / lines.length);
      const tall = area.y(row / lines.length) - top;
      for (let i = 0; i < line.x.length; i += 1) {
        const value = line.y[i];
        if (!Number.isFinite(value) || (found.edges && value === 0)) continue;
        const [left, right] = edges(line.x[i], found.step).map(area.x);
        if (right < area.left || left > area.left + area.width) continue;
        const [r, g, b] = heat(Math.sqrt((value - low) / (high - low || 1)));
        ctx.fillStyle = `rgb(${r} ${g} ${b})`;
        ctx.fillRect(left, top, Math.max(right - left, area.pixel), tall);
      }
    });
  },

  yLabels({ lines, found, formatEdge = format.duration }, height) {
    const count = lines.length;
    const every = Math.max(1, Math.ceil((LABEL * count) / height));
    const places = [];
    for (let row = 0; row < count; row += every) {
      if (found.edges) places.push([row / count, formatEdge(found.edges[row])]);
      else places.push([(row + 0.5) / count, lines[row].short ?? lines[row].label]);
    }
    return places;
  },

  rowAt({ lines }, share) {
    return lines.length ? Math.floor(share * lines.length) : null;
  },
};

/** The same with room for names of layers. */
export const namedHeatmap = { ...heatmap, left: 116 };

function boundsOf(lines) {
  let [low, high] = [Infinity, -Infinity];
  for (const { y } of lines) {
    for (const each of y) {
      if (!Number.isFinite(each)) continue;
      low = Math.min(low, each);
      high = Math.max(high, each);
    }
  }
  return [low, high];
}

/** The colours with their values, below a heat map: { element, show(lines, formatY) }. */
export function heatLegend(words) {
  const strip = h("canvas", { class: "heat-strip", width: 96, height: 8, "aria-hidden": "true" });
  const ctx = strip.getContext("2d");
  for (let x = 0; x < 96; x += 1) {
    const [r, g, b] = heat(Math.sqrt(x / 95));
    ctx.fillStyle = `rgb(${r} ${g} ${b})`;
    ctx.fillRect(x, 0, 1, 8);
  }
  const [least, most] = [h("span", {}), h("span", {})];
  const element = h("div", { class: "legend" }, h("span", {}, words), least, strip, most);
  return {
    element,
    show(lines, formatY) {
      const [low, high] = boundsOf(lines);
      least.textContent = Number.isFinite(low) ? formatY(low) : "";
      most.textContent = Number.isFinite(high) ? formatY(high) : "";
    },
  };
}
