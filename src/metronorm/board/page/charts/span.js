// The stretch of x that all charts of a view show, and the one cursor over them.
//
// | what happens | charts do at once | after REST_MS without another move |
// | --- | --- | --- |
// | zoom, pan, a key | draw what they have in the new stretch | fetch it exactly; the address keeps it |
// | new data, whole run shown | the stretch grows with the run | fetch it exactly, a second later |
// | new data, follow mode | the stretch moves to the newest tick, its length stays | the same |
// | new data, a chosen stretch | nothing, ever | |

import { go, state } from "../state.js";

const REST_MS = 80;
const GROWN_MS = 1000; // the same after a run has grown, which it will again

export class Span {
  constructor() {
    this.extent = null; // [first, last] x of all that is shown
    this.air = 0; // beside these
    this.listeners = new Set();
    this.timer = null;
    this.growing = null;
    this.read();
  }

  /** Take the stretch from the address. */
  read() {
    const from = Number.parseFloat(state.from);
    const to = Number.parseFloat(state.to);
    this.chosen = Number.isFinite(from) && Number.isFinite(to) && to > from ? [from, to] : null;
    this.follow = Boolean(state.follow) && this.chosen !== null;
  }

  /** The stretch that is shown: [from, to], or null before anything is known. */
  get now() {
    if (this.follow && this.extent) {
      const length = this.chosen[1] - this.chosen[0];
      return [this.extent[1] - length, this.extent[1]];
    }
    return this.chosen ?? this.extent;
  }

  /** Call `listener("move" | "rest" | "cursor")`. */
  on(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  tell(what) {
    for (const listener of [...this.listeners]) listener(what);
  }

  /** Data say how far they go. Only ever grows while the view is open, so that nothing jitters. */
  include([first, last]) {
    if (!Number.isFinite(first) || !Number.isFinite(last)) return;
    const before = this.extent;
    const [from, to] = [first - this.air, last + this.air];
    this.extent = before ? [Math.min(before[0], from), Math.max(before[1], to)] : [from, to];
    const grown = !before || before[0] !== this.extent[0] || before[1] !== this.extent[1];
    if (grown && (!this.chosen || this.follow)) {
      this.tell("move");
      if (!before) return;
      clearTimeout(this.growing);
      this.growing = setTimeout(() => this.tell("rest"), GROWN_MS);
    }
  }

  /** Other data, or another x: what was known of the extent holds no more. */
  forget() {
    this.extent = null;
  }

  show(stretch) {
    this.follow = false;
    this.chosen = stretch;
    this.tell("move");
    this.later();
  }

  whole() {
    this.show(null);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.keep();
      this.tell("rest");
    }, REST_MS);
  }

  keep() {
    const [from, to] = this.chosen ?? [];
    go({ from, to, follow: this.follow ? 1 : undefined }, { replace: true });
  }

  toggleFollow() {
    if (!this.now || !this.extent) return;
    if (this.follow) {
      this.chosen = this.now;
      this.follow = false;
    } else {
      const [from, to] = this.now;
      const length = to - from < this.extent[1] - this.extent[0] ? to - from : (to - from) / 4;
      this.chosen = [this.extent[1] - length, this.extent[1]];
      this.follow = true;
    }
    this.tell("move");
    this.later();
  }

  /** Make the stretch `factor` times as long around `centre`, within the extent. */
  zoom(factor, centre = null) {
    if (!this.now) return;
    const [from, to] = this.now;
    if (this.follow) {
      this.chosen = [to - (to - from) * factor, to]; // the newest tick stays at the edge
      this.tell("move");
      this.later();
      return;
    }
    const around = centre ?? (from + to) / 2;
    const next = [around - (around - from) * factor, around + (to - around) * factor];
    if (this.extent && next[0] <= this.extent[0] && next[1] >= this.extent[1]) this.whole();
    else this.show(this.extent ? [Math.max(next[0], this.extent[0]), Math.min(next[1], this.extent[1])] : next);
  }

  /** Move by a share of the length, not beyond the ends. */
  pan(share) {
    if (!this.now || !this.extent) return;
    const [from, to] = this.now;
    let by = share * (to - from);
    by = Math.max(this.extent[0] - from, Math.min(this.extent[1] - to, by));
    if (by) this.show([from + by, to + by]);
  }

  point(x, source = null) {
    this.cursor = x;
    this.source = source;
    this.tell("cursor");
  }

  close() {
    clearTimeout(this.timer);
    clearTimeout(this.growing);
    this.listeners.clear();
  }
}
