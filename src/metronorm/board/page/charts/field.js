// A canvas of our own for what is no line: stacked phases and heat maps. It has the axes, the
// cursor and the gestures of a `Plot`, and the same methods; a painter fills the area.
//
// A painter: { paint(ctx, area, what), yLabels(what): [[share of the height, text]],
//              rowAt?(what, share): index of a line, left?: CSS pixels for the labels }.

import { faded, themed } from "../colors.js";
import { h } from "../dom.js";
import { labelsOf } from "./axes.js";
import { listenToGestures } from "./gestures.js";
import { FONT, RIGHT, X_AXIS, Y_AXIS } from "./plot.js";

const TOP = 8;
const LETTER = 6; // CSS pixels that a letter of a label takes

/** From where to where a column of some ticks, of which this is the first, reaches on the x axis. */
export const edges = (tick, ticks = 1) => [tick - 0.5, tick + ticks - 0.5];

export class Field {
  constructor(host, handlers, painter) {
    Object.assign(this, { host, handlers, painter, cursor: null, chosen: null });
    this.rowAt = painter.rowAt;
    this.canvas = h("canvas", { class: "field-plot", "aria-hidden": "true" });
    host.append(this.canvas);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(host);
    this.ends = [
      listenToGestures(host, () => this.box, {
        ...handlers,
        zoomBy: (factor, share) => handlers.zoomBy(factor, this.xAt(share)),
        point: () => {}, // as with a mouse, below
      }),
      this.pointing(),
    ];
  }

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  /** The area inside of the axes, in CSS pixels of the canvas. */
  get area() {
    const { clientWidth, clientHeight } = this.host;
    const left = this.painter.left ?? Y_AXIS;
    return { left, top: TOP, width: Math.max(10, clientWidth - left - RIGHT), height: Math.max(10, clientHeight - TOP - X_AXIS) };
  }

  get box() {
    const { left, top } = this.canvas.getBoundingClientRect();
    const area = this.area;
    return new DOMRect(left + area.left, top + area.top, area.width, area.height);
  }

  get pixels() {
    return { width: Math.round(this.area.width * this.ratio), left: Math.round(this.area.left * this.ratio), ratio: this.ratio };
  }

  xAt(share) {
    const [from, to] = this.what.view;
    return from + share * (to - from);
  }

  show(what) {
    this.what = what;
    this.draw();
  }

  view(stretch) {
    if (!stretch || !this.what) return;
    this.what.view = stretch;
    this.draw();
  }

  cursorAt(x) {
    this.cursor = x;
    this.draw();
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.what) this.paint();
    });
  }

  paint() {
    const { area, canvas, what, ratio } = this;
    const { clientWidth, clientHeight } = this.host;
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, clientWidth, clientHeight);
    const [from, to] = what.view;
    // on whole device pixels, so that columns beside each other leave no seam
    area.x = (x) => Math.round((area.left + ((x - from) / (to - from)) * area.width) * ratio) / ratio;
    area.y = (share) => Math.round((area.top + area.height * (1 - share)) * ratio) / ratio;
    area.pixel = 1 / ratio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(area.left, area.top, area.width, area.height);
    ctx.clip();
    this.painter.paint(ctx, area, what);
    ctx.restore();
    this.axes(ctx, area);
    if (this.chosen) {
      const [a, b] = this.chosen.map((share) => area.left + share * area.width);
      ctx.fillStyle = faded(themed("accent"), 0.25);
      ctx.fillRect(Math.min(a, b), area.top, Math.abs(b - a), area.height);
    }
    if (this.cursor !== null && this.cursor >= from && this.cursor <= to) {
      ctx.fillStyle = themed("ink");
      ctx.fillRect(Math.round(area.x(this.cursor)), area.top, 1, area.height);
    }
  }

  axes(ctx, area) {
    ctx.font = FONT;
    ctx.fillStyle = themed("dim");
    ctx.strokeStyle = themed("hairline");
    ctx.strokeRect(area.left - 0.5, area.top - 0.5, area.width + 1, area.height + 1);
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    for (const [x, text] of labelsOf(this.what.xKind, this.what.view, area.width)) ctx.fillText(text, area.x(x), area.top + area.height + 7);
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    for (const [share, text] of this.painter.yLabels(this.what, area.height)) {
      const most = Math.floor((area.left - 8) / LETTER);
      const short = text.length > most ? `…${text.slice(1 - most)}` : text;
      ctx.fillText(short, area.left - 6, area.top + area.height * (1 - share));
    }
  }

  /** The pointer: the cursor, and a stretch that is dragged out. */
  pointing() {
    const share = (event) => Math.min(1, Math.max(0, (event.clientX - this.box.left) / this.box.width));
    const move = (event) => {
      if (!this.what) return;
      const high = 1 - (event.clientY - this.box.top) / this.box.height;
      if (this.chosen) this.chosen[1] = share(event);
      this.cursor = this.xAt(share(event));
      this.handlers.cursor(this.cursor, this.painter.rowAt?.(this.what, Math.min(0.999, Math.max(0, high))) ?? null);
      this.draw();
    };
    const leave = (event) => {
      if (event.pointerType === "touch") return; // a finger was lifted: its values stay
      this.cursor = null;
      this.handlers.cursor(null, null);
      this.draw();
    };
    const down = (event) => {
      if (event.button || event.shiftKey || event.pointerType === "touch" || !this.what) return;
      this.chosen = [share(event), share(event)];
      window.addEventListener("pointerup", up, { once: true });
    };
    const up = () => {
      const [a, b] = [...this.chosen].sort((one, two) => one - two);
      this.chosen = null;
      if ((b - a) * this.area.width >= 3) this.handlers.zoom([this.xAt(a), this.xAt(b)]);
      this.draw();
    };
    const listeners = { pointermove: move, pointerleave: leave, pointerdown: down };
    for (const [name, listener] of Object.entries(listeners)) this.canvas.addEventListener(name, listener);
    return () => window.removeEventListener("pointerup", up);
  }

  resize() {
    const width = this.pixels.width;
    if (this.width !== undefined && this.width !== width) this.handlers.resized();
    this.width = width;
    this.draw();
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.observer.disconnect();
    for (const end of this.ends) end();
    this.canvas.remove();
  }
}
