// Parallel coordinates and slices: runs as lines through what they were given, and a measure over
// each of these. Drawn as SVG: a run is one line, so hundreds of them are few elements.

import { heat } from "../colors.js";
import { h } from "../dom.js";
import * as format from "../format.js";

const LOG_FROM = 20; // times the smallest value, from which positive numbers get a log axis
const MOST_WORDS = 12; // of an axis of words
const TICKS = 5;

/**
 * An axis for values: `place(value)` is a share of 0 to 1 from its foot, null where there is none;
 * `ticks` are [share, text]. Numbers have a line, linear or log; everything else, words in order.
 */
export function axisOf(values, name = "") {
  const numbers = values.map((value) => (typeof value === "number" ? value : NaN)).filter(Number.isFinite);
  const others = values.filter((value) => typeof value !== "number" && value !== null && value !== undefined);
  return numbers.length && !others.some((value) => format.number(value) === null) ? line(numbers, name) : wordsAxis(values);
}

function line(numbers, name) {
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const isLog = low > 0 && high / low >= LOG_FROM;
  const to = isLog ? Math.log : (x) => x;
  const back = isLog ? Math.exp : (x) => x;
  const width = to(high) - to(low);
  const at = (share) => back(to(low) + share * width);
  const shares = width > 0 ? Array.from({ length: TICKS }, (_, i) => i / (TICKS - 1)) : [0.5];
  const texts = format.apart(shares.map(at), (x, digits) => format.withUnit(name, x, false, digits ?? 3));
  return {
    place: (value) => (Number.isFinite(value) ? (width > 0 ? (to(value) - to(low)) / width : 0.5) : null),
    ticks: shares.map((share, i) => [share, texts[i]]),
  };
}

function wordsAxis(values) {
  const text = (value) => format.value(value);
  const all = [...new Set(values.filter((value) => value !== null && value !== undefined).map(text))].sort();
  const step = all.length > 1 ? 1 / (all.length - 1) : 0;
  const every = Math.ceil(all.length / MOST_WORDS);
  return {
    place(value) {
      const found = value === null || value === undefined ? -1 : all.indexOf(text(value));
      return found < 0 ? null : step ? found * step : 0.5;
    },
    ticks: all.map((word, i) => [step ? i * step : 0.5, word]).filter((_, i) => i % every === 0),
  };
}

/** The colour of a share of 0 to 1, as SVG has it. */
const colorAt = (share) => `rgb(${heat(share).join(" ")})`;

/**
 * Lines through all axes. names: of the axes, the measure last; rows: [{ label, values }]; words:
 * for screen readers. Rows without a finite measure are dashed, and end before it.
 */
export function parallel({ names, rows, words }) {
  const [width, height, top, foot, side] = [Math.max(480, 130 * names.length), 320, 34, 16, 60];
  const axes = names.map((name, i) => axisOf(rows.map((row) => row.values[i]), name));
  const x = (i) => side + (i * (width - 2 * side)) / Math.max(1, names.length - 1);
  const y = (share) => height - foot - share * (height - top - foot);
  const last = names.length - 1;
  const lines = rows.map(({ label, values }) => {
    const shares = values.map((value, i) => axes[i].place(value));
    const points = shares.flatMap((share, i) => (share === null ? [] : [`${x(i).toFixed(1)},${y(share).toFixed(1)}`]));
    const isKnown = shares[last] !== null;
    const told = names.map((name, i) => `${name} ${format.withUnit(name, values[i])}`).join("\n");
    return svg(
      "polyline",
      { class: isKnown ? "through" : "through unknown", points: points.join(" "), stroke: isKnown ? colorAt(shares[last]) : null },
      svg("title", {}, `${label}\n${told}`),
    );
  });
  const drawn = axes.map((axis, i) => [
    svg("line", { class: "axis", x1: x(i), x2: x(i), y1: y(0), y2: y(1) }),
    svg("text", { class: "axis-name", x: x(i), y: 14, "text-anchor": "middle" }, shortened(names[i])),
    axis.ticks.map(([share, text]) => svg("text", { class: "axis-tick", x: x(i) - 5, y: y(share) + 4, "text-anchor": "end" }, shortened(text, 10))),
  ]);
  return svg("svg", { class: "parallel", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words }, lines, drawn);
}

/** A measure over one option: a dot for each run. rows: [{ label, at, value }]. */
export function slice({ name, measure, rows, words }) {
  const [width, height, left, foot, top] = [340, 230, 62, 24, 10];
  const [across, up] = [axisOf(rows.map((row) => row.at), name), axisOf(rows.map((row) => row.value), measure)];
  const x = (share) => left + 8 + share * (width - left - 28);
  const y = (share) => height - foot - 8 - share * (height - foot - top - 16);
  const dots = rows.flatMap(({ label, at, value }) => {
    const [one, other] = [across.place(at), up.place(value)];
    if (one === null || other === null) return [];
    const told = `${label}\n${name} ${format.withUnit(name, at)}\n${measure} ${format.withUnit(measure, value)}`;
    return [svg("circle", { class: "dot", cx: x(one).toFixed(1), cy: y(other).toFixed(1), r: 3.5, fill: colorAt(other) }, svg("title", {}, told))];
  });
  const marks = across.ticks.filter((_, i, all) => all.length < 4 || i % 2 === 0);
  return svg(
    "svg",
    { class: "slice", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words },
    svg("line", { class: "axis", x1: left, x2: left, y1: top, y2: height - foot }),
    svg("line", { class: "axis", x1: left, x2: width - 10, y1: height - foot, y2: height - foot }),
    marks.map(([share, text]) => svg("text", { class: "axis-tick", x: x(share), y: height - 6, "text-anchor": "middle" }, shortened(text, 12))),
    up.ticks.map(([share, text]) => svg("text", { class: "axis-tick", x: left - 6, y: y(share) + 4, "text-anchor": "end" }, shortened(text, 10))),
    dots,
  );
}

/** Long names keep their end, which says what they are. */
function shortened(text, most = 20) {
  return text.length > most ? `…${text.slice(1 - most)}` : text;
}

/** An element of SVG; children as `h` of dom.js takes them. */
function svg(tag, props, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) if (value !== null) element.setAttribute(name, value);
  const held = h("div", {}, ...children); // where strings become text nodes, and lists are flat
  element.append(...held.childNodes);
  return element;
}
