// The events of a run as marks over its charts.

import { getJson, ofRun } from "../api.js";
import * as format from "../format.js";
import { t } from "../words.js";

// those that explain a chart; samples, pauses of the garbage collector and the like are too many
const KINDS = {
  resume: "resume", branch: "resume", changed: "resume", checkpoint: "", "checkpoint failed": "bad",
  stall: "bad", signal: "bad", "not finite": "bad", dropped: "bad", stop: "", test: "", end: "",
};
const MOST = 300;

/** [{ x, kind, label }] on an axis, ascending. */
export async function eventMarks(id, axis) {
  const { events } = await getJson(ofRun(id, "events"), { x: axis });
  return events
    .filter(({ event }) => event in KINDS)
    .map((each) => ({ ...each, x: each.x ?? placeOf(each, axis) }))
    .filter(({ x }) => Number.isFinite(x))
    .slice(-MOST)
    .map(({ x, event, fields, tick }) => ({ x, kind: event === "end" && fields?.error ? "bad" : KINDS[event], label: wordsOf(event, fields, tick) }));
}

function placeOf(event, axis) {
  if (axis === "tick") return event.tick;
  if (axis === "time") return event.time_ns / 1e6;
  return null; // the server has not said it
}

function wordsOf(event, fields, tick) {
  const known = t(`event.${event}`);
  const name = known === `event.${event}` ? event : known;
  const detail = fields?.metric ?? fields?.error ?? fields?.reason ?? fields?.signal ?? "";
  return `${name}${detail ? ` ${detail}` : ""} · ${format.whole(tick ?? 0)}`;
}
