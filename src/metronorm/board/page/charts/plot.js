// The only file that knows uPlot. A plot draws lines in a stretch of x, with rails and events, and
// reports gestures. What is fetched, and when, is not its matter.
//
// A line: { id, label, color, dash, width, x, y, gaps?, band?, rails?, faint? }; x ascends. Where y
// is not finite the line has a gap; `gaps` are more of them, as [x before, x after].

import { faded, themed } from "../colors.js";
import { apart } from "../format.js";
import { byteSteps, xAxis } from "./axes.js";
import { listenToGestures } from "./gestures.js";
import { drawBands, drawEvents, drawOutside, drawRails } from "./marks.js";
import { rangeOf } from "./ranges.js";

export const RAIL = 14; // CSS pixels above the plot for events, NaN and infinities
export const Y_AXIS = 64; // the same in all charts, so that one cursor stands over another
export const X_AXIS = 26;
export const RIGHT = 22; // room for half of the last label
const POINTS_UP_TO = 12; // lines that get a dot under the cursor
export const FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';

/** Resolves when uPlot is there; it comes beside the modules. */
const uPlotLoaded = new Promise((resolve, reject) => {
  if (globalThis.uPlot) return resolve();
  const script = document.getElementById("uplot");
  script.addEventListener("load", resolve);
  script.addEventListener("error", () => reject(new Error("uPlot was not loaded")));
});
uPlotLoaded.catch(() => {}); // (the card says it)

export class Plot {
  /** handlers: zoom([from, to]), pan(share), whole(), cursor(x or null, y). */
  constructor(host, handlers) {
    this.host = host;
    this.handlers = handlers;
    this.lines = [];
    this.signature = null;
    this.own = false; // whether a cursor comes from outside
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(host);
    this.gestures = listenToGestures(host, () => (this.u?.over ?? host).getBoundingClientRect(), {
      ...handlers,
      zoomBy: (factor, share) => handlers.zoomBy(factor, this.what.view[0] + share * (this.what.view[1] - this.what.view[0])),
      point: (x, y) => this.u.setCursor({ left: x * this.u.over.clientWidth, top: y * this.u.over.clientHeight }),
    });
  }

  /** Resolves when it can draw. */
  get ready() {
    return uPlotLoaded;
  }

  /** The plotted area in device pixels, as in uPlot's `bbox`: what a series is reduced to. */
  get pixels() {
    const ratio = globalThis.uPlot?.pxRatio ?? devicePixelRatio;
    const rounded = (css) => Math.round(2 * css * ratio) / 2;
    return { width: Math.round(rounded(this.width - Y_AXIS - RIGHT)), left: rounded(Y_AXIS), ratio };
  }

  get width() {
    return this.host.clientWidth || 320;
  }

  /**
   * Draw. what: { lines, view, y, xKind, formatY, inBytes?, range?, fit?, linear?, events? }; without
   * `range` all values in view are shown, with `fit` most of them.
   */
  show(what) {
    this.what = what;
    this.lines = what.lines;
    const signature = JSON.stringify([
      what.y,
      what.xKind,
      what.linear,
      what.lines.map(({ id, color, dash, width }) => [id, color, dash, width]),
      themed("ink"),
    ]);
    this.range = what.range ?? rangeOf(what);
    if (signature === this.signature) {
      this.u.setData(aligned(what.lines), false);
      this.view(what.view);
    } else {
      this.signature = signature;
      this.u?.destroy();
      const size = { width: this.width, height: this.host.clientHeight || 200 };
      this.u = new uPlot({ ...this.options(what), ...size }, aligned(what.lines), this.host);
      this.u.over.setAttribute("aria-hidden", "true");
      this.view(what.view);
    }
  }

  /** Show another stretch with the lines that are there. */
  view(stretch) {
    if (!this.u || !stretch) return;
    this.what.view = stretch;
    this.u.batch(() => {
      this.u.setScale("x", { min: stretch[0], max: stretch[1] });
      this.u.setScale("y", { min: this.range[0], max: this.range[1] });
    });
  }

  options(what) {
    const ink = themed("dim");
    const hairline = themed("hairline");
    const grid = { stroke: hairline, width: 1 };
    const ticks = { stroke: hairline, width: 1, size: 4 };
    const many = what.lines.length > POINTS_UP_TO;
    return {
      padding: [RAIL + 4, RIGHT, 0, 0],
      legend: { show: false },
      focus: { alpha: many ? 1 : 0.3 },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        focus: { prox: many || what.lines.length < 2 ? -1 : 20 },
        points: { show: !many, size: 7 },
        dataIdx: nearestWithValue,
      },
      scales: {
        x: { time: false, auto: false, range: (_, min, max) => [min, max] },
        y: {
          auto: false,
          distr: { log: 3, asinh: 4 }[what.y] ?? 1,
          asinh: what.linear,
          range: (_, min, max) => [min, max],
        },
      },
      axes: [
        { stroke: ink, font: FONT, grid, ticks, size: X_AXIS, gap: 3, ...axisOf(what.xKind) },
        {
          stroke: ink,
          font: FONT,
          grid,
          ticks,
          size: Y_AXIS,
          gap: 4,
          ...(what.inBytes && { incrs: (_, __, least, most) => byteSteps(Math.max(-least, most)) }),
          values: (_, splits) => yLabels(splits, what),
        },
      ],
      series: [{}, ...what.lines.map((line) => ({ ...seriesOf(line), gaps: (u, i, _, __, found) => this.gaps(u, i, found) }))],
      hooks: {
        drawClear: [(u) => drawBands(u, this.lines)],
        drawAxes: [(u) => drawEvents(u, this.what.events ?? [])],
        draw: [(u) => drawRails(u, this.lines), (u) => this.what.fit && drawOutside(u, this.lines)],
        setCursor: [(u) => this.moved(u)],
        setSelect: [(u) => this.selected(u)],
      },
    };
  }

  /** Where a line has gaps, in canvas pixels; those within one pixel hide nothing. */
  gaps(u, series, found) {
    const own = this.lines[series - 1]?.gaps;
    const gaps = own?.length ? own.map((pair) => pair.map((x) => Math.round(u.valToPos(x, "x", true)))) : found;
    return gaps.filter(([from, to]) => from < to);
  }

  moved(u) {
    if (this.own) return;
    const { left, top } = u.cursor;
    if (left === null || left < 0) this.handlers.cursor(null, null);
    else this.handlers.cursor(u.posToVal(left, "x"), u.posToVal(top, "y"));
  }

  selected(u) {
    const { left, width } = u.select;
    if (width < 3) return;
    const stretch = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.handlers.zoom(stretch);
  }

  /** Put the cursor at an x that another chart, or a key, has chosen; null takes it away. */
  cursorAt(x) {
    if (!this.u) return;
    this.own = true;
    const inside = x !== null && this.what.view && x >= this.what.view[0] && x <= this.what.view[1];
    const left = inside ? this.u.valToPos(x, "x") : -10;
    this.u.setCursor({ left, top: inside ? this.u.over.clientHeight / 2 : -10 }, false);
    this.own = false;
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!this.u || !width || !height || (width === this.u.width && height === this.u.height)) return;
    const wider = width !== this.u.width;
    this.u.setSize({ width, height });
    if (wider) this.handlers.resized();
  }

  destroy() {
    this.observer.disconnect();
    this.gestures();
    this.u?.destroy();
    this.u = null;
    this.signature = null;
  }
}

function seriesOf(line) {
  return {
    label: line.label,
    stroke: line.faint ? faded(line.color, 0.55) : line.color,
    width: line.width ?? 1.5,
    dash: line.dash?.length ? line.dash : undefined,
    points: { size: 5, fill: line.color },
  };
}

function axisOf(kind) {
  const { steps, space, label } = xAxis(kind);
  return { incrs: steps, space, values: (_, splits, __, ___, step) => splits.map((x, i) => label(x, step, splits[i - 1])) };
}

function yLabels(splits, { y, formatY }) {
  const isShown = (each) => each !== null && (y !== "log" || isRound(each));
  const words = apart(splits.filter(isShown), formatY);
  return splits.map((each) => (isShown(each) ? words.shift() : ""));
}

/** Where the value nearest to the cursor is, in a line that has none at many of the shared x. */
function nearestWithValue(u, series, index) {
  const values = u.data[series];
  if (!values || values[index] !== undefined) return index;
  let [low, high] = [index, index];
  while (low > 0 && values[low] === undefined) low -= 1;
  while (high < values.length - 1 && values[high] === undefined) high += 1;
  const x = u.data[0];
  const nearer = x[index] - x[low] <= x[high] - x[index] ? low : high;
  return values[nearer] === undefined ? (nearer === low ? high : low) : nearer;
}

/**
 * Lines with their own x as columns over one shared x: undefined where a line has no point (it is
 * drawn through), null where it has a gap. An x that a line has twice gets two rows.
 */
export function aligned(lines) {
  if (lines.length === 1) return [lines[0].x, gaps(lines[0].y)];
  const places = lines.map(() => 0);
  const shared = [];
  const columns = lines.map(() => []);
  for (;;) {
    let x = Infinity;
    lines.forEach((line, i) => {
      if (places[i] < line.x.length && line.x[places[i]] < x) x = line.x[places[i]];
    });
    if (x === Infinity) break;
    shared.push(x);
    lines.forEach((line, i) => {
      if (places[i] < line.x.length && line.x[places[i]] === x) {
        const y = line.y[places[i]];
        columns[i].push(Number.isFinite(y) ? y : null);
        places[i] += 1;
      } else {
        columns[i].push(undefined);
      }
    });
  }
  return [shared, ...columns];
}

const gaps = (values) => Array.from(values, (y) => (Number.isFinite(y) ? y : null));

/** Whether a number is a digit and zeros: the ends of a log axis are not, and get no label. */
function isRound(x) {
  const digit = Math.abs(x) / 10 ** Math.floor(Math.log10(Math.abs(x)));
  return Math.abs(digit - Math.round(digit)) < 1e-6;
}
