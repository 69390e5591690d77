// Series from the server. What the charts ask for in one moment becomes few requests, each of some
// names of some runs, and few of these run at once.

import { ApiError, addressOf, getColumns, getSeveral, ofRun } from "../api.js";
import { lines } from "../columns.js";
import { prefer } from "../state.js";

const AT_ONCE = 4; // requests: a browser opens six connections, and one is the stream
const RUNS = 16; // in one request
const NAMES = [1, 4]; // in the first and in all later requests of a run: a chart waits for few others

const waiting = new Map(); // key -> { route, ids, values, wishes: Map(name -> [wish]) }
const queue = [];
const busy = new Set(); // runs that are asked: the server reads a run for one request at a time
let timer = null;

/**
 * One name of some runs. For each of them { line, ghosts, meta }, where line is null if the run has
 * nothing of it, or { error }. route: "series", or another one of a single run.
 */
export async function askSeries(ids, name, values, signal, route = "series") {
  const parts = [];
  for (let i = 0; i < ids.length; i += RUNS) parts.push(askSome(ids.slice(i, i + RUNS), name, values, signal, route));
  return (await Promise.all(parts)).flat();
}

function askSome(ids, name, values, signal, route) {
  const key = JSON.stringify([route, ids, values]);
  return new Promise((resolve) => {
    const group = waiting.get(key) ?? { route, ids, values, wishes: new Map() };
    waiting.set(key, group);
    group.wishes.set(name, [...(group.wishes.get(name) ?? []), { resolve, signal }]);
    timer ??= setTimeout(send);
  });
}

function send() {
  timer = null;
  for (const group of waiting.values()) {
    const names = [...group.wishes.keys()];
    for (let i = 0, count = 0; i < names.length; count += 1) {
      const most = NAMES[Math.min(count, NAMES.length - 1)];
      queue.push({ ...group, names: names.slice(i, i + most), order: count });
      i += most;
    }
  }
  waiting.clear();
  queue.sort((a, b) => a.order - b.order); // the first chart of all runs before the second of any
  remember();
  next();
}

/** What the first chart of a visit asks for; early.js asks the next time, if the window is as wide. */
function remember() {
  const { visit } = globalThis.early ?? {};
  if (!visit || !isFirst) return;
  isFirst = false;
  if (!location.hash || !visit.startsWith(`${location.hash} `)) return;
  const first = queue.filter(({ order, route }) => !order && route === "series").slice(0, AT_ONCE);
  const addresses = first.map((group) => addressOf("series", queryOf(group)));
  prefer("first", JSON.stringify({ visit, addresses }));
}
let isFirst = true;

const queryOf = ({ ids, values, names }) => ({ runs: ids, ...values, names });

let asking = 0;
function next() {
  for (let i = 0; i < queue.length && asking < AT_ONCE; ) {
    if (queue[i].ids.some((id) => busy.has(id))) i += 1;
    else ask(queue.splice(i, 1)[0]);
  }
}

async function ask({ route, ids, values, wishes, names }) {
  const wanted = names.filter((name) => wishes.get(name).some(({ signal }) => !signal?.aborted));
  if (!wanted.length) return;
  asking += 1;
  for (const id of ids) busy.add(id);
  let answers;
  try {
    if (route === "series") answers = await getSeveral(route, queryOf({ ids, values, names: wanted }));
    else answers = [await getColumns(ofRun(ids[0], route), { ...values, names: wanted })];
  } catch (error) {
    answers = ids.map(() => ({ error }));
  }
  asking -= 1;
  for (const id of ids) busy.delete(id);
  next();
  const drawn = answers.map(({ error, ...answer }) => {
    if (error) return { error };
    if (answer.meta.error) return { error: new ApiError(422, answer.meta) };
    return { meta: answer.meta, tracks: lines(answer) };
  });
  for (const name of wanted) {
    const found = drawn.map(({ error, meta, tracks }) => {
      if (error) return { error };
      const own = tracks.filter((track) => track.name === name);
      return { line: own.find((track) => !track.ghost) ?? null, ghosts: own.filter((track) => track.ghost), meta };
    });
    for (const { resolve } of wishes.get(name)) resolve(found);
  }
}
