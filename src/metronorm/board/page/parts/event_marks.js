// The events of a run as marks over its charts.

import { getJson, ofRun } from "../api.js";
import * as format from "../format.js";
import { t } from "../words.js";

// those that explain a chart; samples, pauses of the garbage collector and the like are too many
const KINDS = {
  resume: "resume", branch: "resume", changed: "resume", checkpoint: "", "checkpoint failed": "bad",
  stall: "bad", signal: "bad", "not finite": "bad", dropped: "bad", stop: "", test: "", end: "",
};

/**
 * What a chart over an axis marks: { marks: [{ x, kind, label }], notice }. The notice says that
 * only the newest events are marked, if there are too many; else it is null.
 */
export async function eventMarks(id, axis) {
  const { events, total } = await getJson(ofRun(id, "events"), { x: axis, names: Object.keys(KINDS) });
  const known = new Set();
  const marks = [];
  for (const { attempt, event, fields, tick, x } of events) {
    const key = JSON.stringify([attempt, event, fields?.path ?? fields?.metric ?? tick]);
    if (!Number.isFinite(x) || known.has(key)) continue; // each rank says it
    known.add(key);
    marks.push({ x, kind: event === "end" && fields?.error ? "bad" : KINDS[event], label: wordsOf(event, fields, tick) });
  }
  const few = events.length < total;
  return { marks, notice: few ? t("events.showing", { shown: format.whole(events.length), all: format.whole(total) }) : null };
}

function wordsOf(event, fields, tick) {
  const known = t(`event.${event}`);
  const name = known === `event.${event}` ? event : known;
  const detail = fields?.metric ?? fields?.error ?? fields?.reason ?? fields?.signal ?? fields?.path ?? fields?.checkpoint ?? "";
  return `${name}${detail ? ` ${detail}` : ""}${tick ? ` · ${format.whole(tick)}` : ""}`;
}
