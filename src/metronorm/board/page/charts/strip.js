// The strip of a card shows as many values as there is room for, and how many more there are.

const ROOM = 40; // pixels at its end that the number may cover
const waiting = new Map(); // strip -> how many values are not even in it
let asked = null;

/** Say in a strip how many values have no room; `others`: of those, how many it does not hold. */
export function countHidden(strip, others = 0) {
  waiting.set(strip, others);
  asked ??= requestAnimationFrame(() => {
    asked = null;
    // all are measured before one is changed: the page is laid out once
    const found = [...waiting].map(([each, more]) => [each, hiddenIn(each) + more]);
    waiting.clear();
    for (const [each, count] of found) each.dataset.more = count ? `+${count}` : "";
  });
}

function hiddenIn(strip) {
  const { bottom, right } = strip.getBoundingClientRect();
  const places = [...strip.querySelectorAll(".value")].map((value) => value.getBoundingClientRect());
  const below = places.filter(({ top }) => top > bottom - 2);
  if (!below.length && !places.some((place) => place.right > right + 1)) return 0;
  const last = places.filter(({ top }) => top > bottom - 22 && top <= bottom - 2);
  return below.length + last.filter((place) => place.right > right - ROOM).length;
}
