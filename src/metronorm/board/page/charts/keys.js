// The keys of a chart that has the focus.
//
// | key | does |
// | --- | --- |
// | left, right; Page Up, Page Down | move the cursor by a point; by a tenth |
// | Home, End | to the first and the last point |
// | up, down | another line |
// | + − 0 | zoom in, out, show all |
// | shift + left, right | pan |
// | f, n, c, t, w | follow, first NaN, clip what is rare, table, wide |

import { announce } from "../dom.js";
import { nearestIndex, xWords } from "./describing.js";

export function keysOf(card) {
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actions[event.shiftKey ? `shift+${event.key}` : event.key];
    if (!action) return;
    event.preventDefault();
    action(card);
  };
}

const actions = {
  ArrowLeft: (card) => step(card, -1),
  ArrowRight: (card) => step(card, 1),
  PageUp: (card) => leap(card, -0.1),
  PageDown: (card) => leap(card, 0.1),
  Home: (card) => point(card, card.span.now?.[0]),
  End: (card) => point(card, card.span.now?.[1]),
  ArrowUp: (card) => another(card, -1),
  ArrowDown: (card) => another(card, 1),
  "+": (card) => card.span.zoom(0.5, card.span.cursor ?? null),
  "=": (card) => card.span.zoom(0.5, card.span.cursor ?? null),
  "shift++": (card) => card.span.zoom(0.5, card.span.cursor ?? null),
  "-": (card) => card.span.zoom(2, card.span.cursor ?? null),
  0: (card) => card.span.whole(),
  "shift+ArrowLeft": (card) => card.span.pan(-0.2),
  "shift+ArrowRight": (card) => card.span.pan(0.2),
  f: (card) => card.span.toggleFollow(),
  n: (card) => card.toFirstBad(),
  c: (card) => card.fit(),
  t: (card) => card.table(),
  w: (card) => card.widen(),
};

/** The points of the chosen line that are in view, as [first, last] index. */
function bounds(card) {
  const line = card.listed[card.line % card.lines.length];
  if (!line?.x.length || !card.span.now) return null;
  return { line, first: nearestIndex(line.x, card.span.now[0]), last: nearestIndex(line.x, card.span.now[1]) };
}

function step(card, by) {
  const found = bounds(card);
  if (!found) return;
  const { line, first, last } = found;
  const from = Number.isFinite(card.span.cursor) ? nearestIndex(line.x, card.span.cursor) : by > 0 ? first - 1 : last + 1;
  at(card, line, Math.max(first, Math.min(last, from + by)));
}

function leap(card, share) {
  const [from, to] = card.span.now ?? [0, 0];
  point(card, Math.max(from, Math.min(to, (card.span.cursor ?? from) + share * (to - from))));
}

function point(card, x) {
  const found = bounds(card);
  if (found && x !== undefined) at(card, found.line, Math.max(found.first, Math.min(found.last, nearestIndex(found.line.x, x))));
}

function another(card, by) {
  if (!card.lines.length) return;
  card.line = (card.line + by + card.lines.length) % card.lines.length;
  point(card, card.span.cursor ?? card.span.now?.[1]);
}

function at(card, line, index) {
  card.y = line.y[index];
  card.span.point(line.x[index], null);
  const who = card.lines.length > 1 ? `${line.label}, ` : "";
  announce(`${who}${xWords(card.settings().x, line.x[index])}: ${card.formatY(line.y[index])}`);
}
