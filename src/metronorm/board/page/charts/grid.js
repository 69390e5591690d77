// A grid of cards that draw only while they are on the screen: what is far away is destroyed, so
// hundreds of charts cost no more than the few that are seen.

const REST_MS = 2500; // after the last new ticks
const MARGIN = "200px"; // cards that near the screen are made ready

export class Grid {
  constructor() {
    this.cards = new Map(); // element -> card
    this.observer = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const card = this.cards.get(target);
          if (isIntersecting) card?.wake();
          else card?.sleep();
        }
      },
      { rootMargin: MARGIN },
    );
  }

  add(card) {
    this.cards.set(card.element, card);
    this.observer.observe(card.element);
    // the observer waits until a frame is painted: what is seen at once asks before that
    if (!this.looking) queueMicrotask(() => this.look());
    this.looking = true;
    return card.element;
  }

  look() {
    this.looking = false;
    for (const card of this.cards.values()) {
      const { top, width } = card.element.getBoundingClientRect();
      if (top > window.innerHeight) return;
      if (width) card.wake();
    }
  }

  clear() {
    clearTimeout(this.timer);
    this.observer.disconnect();
    for (const card of this.cards.values()) card.sleep();
    this.cards.clear();
  }

  /** Fetch again what is on the screen. */
  refresh() {
    for (const card of this.cards.values()) card.fetch();
  }

  /**
   * The same while a run goes on: buckets at fixed places do not wobble; what rests is exact.
   * Resolves when all is drawn.
   */
  live() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), REST_MS);
    return Promise.all([...this.cards.values()].map((card) => card.fetch({ live: true })));
  }

  redraw() {
    for (const card of this.cards.values()) card.draw();
  }
}
