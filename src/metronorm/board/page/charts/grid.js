// A grid of cards that draw only while they are on the screen: what is far away is destroyed, so
// hundreds of charts cost no more than the few that are seen.

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
    return card.element;
  }

  clear() {
    this.observer.disconnect();
    for (const card of this.cards.values()) card.sleep();
    this.cards.clear();
  }

  /** Fetch again what is on the screen. */
  refresh() {
    for (const card of this.cards.values()) card.fetch();
  }

  redraw() {
    for (const card of this.cards.values()) card.draw();
  }
}
