// Series from the server. What the charts ask for in one moment becomes one request per run, and
// few requests run at once.

import { getColumns, ofRun } from "../api.js";
import { lines } from "../columns.js";

const AT_ONCE = 4; // requests: a browser opens six connections, and one is the stream
const NAMES = [1, 4]; // in the first and in all later requests of a run: a chart waits for few others

const waiting = new Map(); // key -> { route, id, values, wishes: Map(name -> [wish]) }
const queue = [];
const busy = new Set(); // runs that are asked: the server reads a run for one request at a time
let timer = null;

/** One name of one run: { line, ghosts, meta }; line is null where the run has nothing of it. */
export function askSeries(id, name, values, signal, route = "series") {
  const key = JSON.stringify([route, id, values]);
  return new Promise((resolve, reject) => {
    const group = waiting.get(key) ?? { route, id, values, wishes: new Map() };
    waiting.set(key, group);
    group.wishes.set(name, [...(group.wishes.get(name) ?? []), { resolve, reject, signal }]);
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
  next();
}

function next() {
  for (let i = 0; i < queue.length && busy.size < AT_ONCE; ) {
    if (busy.has(queue[i].id)) i += 1;
    else ask(queue.splice(i, 1)[0]);
  }
}

function ask({ route, id, values, wishes, names }) {
  const wanted = names.filter((name) => wishes.get(name).some(({ signal }) => !signal?.aborted));
  if (!wanted.length) return;
  busy.add(id);
  getColumns(ofRun(id, route), { ...values, names: wanted })
    .then((answer) => {
      const tracks = lines(answer);
      for (const name of wanted) {
        const own = tracks.filter((track) => track.name === name);
        const found = {
          line: own.find((track) => !track.ghost) ?? null,
          ghosts: own.filter((track) => track.ghost),
          meta: answer.meta,
        };
        for (const { resolve } of wishes.get(name)) resolve(found);
      }
    })
    .catch((error) => {
      for (const name of wanted) for (const { reject } of wishes.get(name)) reject(error);
    })
    .finally(() => {
      busy.delete(id);
      next();
    });
}
