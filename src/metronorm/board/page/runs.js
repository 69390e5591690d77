// All runs that the server lists, and which of them are shown.

import { getJson, ofRun, send } from "./api.js";
import { go, state } from "./state.js";

export const OVERLAYS = new Set(["runs", "metrics", "options"]); // views that can show many runs at once
export const PRESELECTED = 10; // runs that are shown before anybody chooses

const listeners = new Set();
const foundListeners = new Set();
const byId = new Map();
let found = null; // the ids that the search finds; null while there is no search
export let order = []; // of ids, the newest first
export let loaded = false;
export let cursor; // of the stream: what the list knows already
export let roots = []; // the folders that are watched
export let notices = []; // what the server could not read

/** Call `listener(ids)` when these runs have changed; null: the list itself. */
export function onRuns(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function notify(ids) {
  for (const listener of [...listeners]) listener(ids);
}

export const getRun = (id) => byId.get(id);

export async function loadRuns() {
  const answer = await getJson("runs");
  const known = new Set(answer.runs.map((run) => run.id));
  for (const id of byId.keys()) if (!known.has(id)) byId.delete(id);
  for (const run of answer.runs) {
    byId.set(run.id, { ...run, seenAt: performance.now(), label: run.name ?? run.id });
  }
  nameApart();
  order = answer.runs
    .slice()
    .sort((a, b) => (b.begun_ns ?? 0) - (a.begun_ns ?? 0) || (a.id < b.id ? -1 : 1))
    .map((run) => run.id);
  loaded = true;
  cursor = answer.cursor;
  roots = answer.roots ?? [];
  notices = answer.notices ?? [];
  notify(null);
}

/** Runs of the same name are told apart by their folder, or else by their id. */
function nameApart() {
  const groups = Map.groupBy ? Map.groupBy(byId.values(), (run) => run.label) : groupBy(byId.values());
  for (const same of groups.values()) {
    if (same.length < 2) continue;
    const folders = new Set(same.map((run) => run.folder));
    for (const run of same) {
      run.label = `${run.label} · ${folders.size === same.length ? run.folder : run.id.slice(0, 6)}`;
    }
  }
}

function groupBy(runs) {
  const found = new Map();
  for (const run of runs) found.set(run.label, [...(found.get(run.label) ?? []), run]);
  return found;
}

/** What the stream tells of runs: their tick, state and age. */
export function heard(changes) {
  const ids = [];
  let unknown = false;
  let colored = false;
  for (const change of changes) {
    const run = byId.get(change.id);
    if (!run || change.gone) unknown = true;
    else {
      if (change.color !== undefined && change.color !== run.color) colored = true;
      Object.assign(run, change, { seenAt: performance.now() });
      ids.push(change.id);
    }
  }
  if (unknown) loadRuns().catch(() => {});
  if (ids.length) notify(ids);
  if (colored) recolor();
}

/** Colours are others from now on: of a run, or of all, as the theme is. */
export function recolor() {
  notify(order);
  window.dispatchEvent(new Event("recolor"));
}

/** The age of the newest record now, ns; null if there is none. */
export function ageOf(run) {
  if (run.age_ns === null || run.age_ns === undefined) return null;
  return run.age_ns + 1e6 * (performance.now() - run.seenAt);
}

/** Whether a run is being written, as far as anybody can tell. */
export const isRunning = (run) => Boolean(run?.state?.startsWith("running"));

/** The kind of a state, for its colour: running, finished, failed, stopped, waiting, damaged. */
export function kindOf(run) {
  if (run.damaged) return "damaged";
  const word = String(run.state ?? "");
  if (run.stalled) return "stalled";
  if (word.startsWith("running")) return "running";
  if (word.startsWith("finished")) return "finished";
  if (word.startsWith("killed") || word.startsWith("failed")) return "failed";
  if (word.startsWith("stopped")) return "stopped";
  return "waiting";
}

/** What the search has found: all lists and charts are of these runs only; null: of all. */
export function findRuns(ids) {
  found = ids && new Set(ids);
  for (const listener of [...foundListeners]) listener();
}

/** Call `listener()` when the search has found other runs; returns the function that ends it. */
export function onFound(listener) {
  foundListeners.add(listener);
  return () => foundListeners.delete(listener);
}

const isFound = (id) => found === null || found.has(id);

/** The ids that may be listed: found by the search, and not hidden unless hidden ones are wanted. */
export const listedIds = () => order.filter((id) => isFound(id) && (state.hidden || !byId.get(id).hidden));

/** The ids that the charts show: chosen ones, or else the newest that are not hidden. */
export function shownIds() {
  if (state.shown) return state.shown.filter((id) => byId.has(id) && isFound(id));
  return order.filter((id) => isFound(id) && !byId.get(id).hidden && !byId.get(id).damaged).slice(0, PRESELECTED);
}

/** Show or leave out a run in the charts. What a search leaves out stays chosen for afterwards. */
export function toggleShown(id) {
  const now = new Set(state.shown ?? shownIds());
  if (!now.delete(id)) now.add(id);
  go({ shown: order.filter((each) => now.has(each)) }, { replace: true });
}

/** The run that the views of one run are about: the chosen one, or else the first that is shown. */
export function focusId() {
  if (state.run) return state.run;
  return shownIds()[0] ?? order[0];
}

/**
 * Name the runs that a view is about in the address: it restores them, and the view does not turn
 * to another run when one begins.
 */
export function nameRuns() {
  if (OVERLAYS.has(state.view)) return;
  const run = focusId();
  const a = state.a ?? state.pin ?? order.find((id) => id !== run);
  go({ run, a: state.view === "compare" ? a : undefined }, { replace: true });
}

/** Save a star, a note, tags, a colour or that a run is hidden, beside the run. */
export async function saveNotes(id, changes) {
  const run = byId.get(id);
  const before = { starred: run.starred, hidden: run.hidden, note: run.note, tags: run.tags, color: run.color };
  const { color, ...others } = changes;
  Object.assign(run, others, color && { color }); // (its own colour comes back with the stream)
  notify([id]);
  if (color) recolor();
  try {
    await send("PUT", ofRun(id, "notes"), changes);
  } catch (error) {
    Object.assign(run, before);
    notify([id]);
    throw error;
  }
}

const infos = new Map();

/** What a run is: config, metrics, phases, ... Kept until `forget` or a new attempt. */
export function infoOf(id, { fresh = false } = {}) {
  if (fresh || !infos.has(id)) {
    const asked = getJson(ofRun(id));
    asked.catch(() => infos.delete(id));
    infos.set(id, asked);
  }
  return infos.get(id);
}
