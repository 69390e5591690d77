// What is shown, kept in the fragment of the address: #VIEW?run=ID&x=tokens. A copied address
// restores the whole view, and the browser's Back undoes a step.

export const VIEWS = ["runs", "metrics", "ticks", "resources", "norms", "diagnosis", "samples", "config", "compare", "options"];
const LISTS = new Set(["shown", "cols", "only"]);
const listeners = new Set();

export let state = parse();

function parse() {
  const [view, query = ""] = location.hash.slice(1).split("?", 2);
  const found = { view: VIEWS.includes(view) ? view : "runs" };
  for (const [key, value] of new URLSearchParams(query)) {
    if (LISTS.has(key)) (found[key] ??= []).push(value);
    else found[key] = value;
  }
  return found;
}

/** The address of the state with these changes; undefined removes a key. */
export function link(changes) {
  const next = { ...state, ...changes };
  if (next.view !== "compare") delete next.a; // the other run of a comparison
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(next)) {
    if (key === "view" || value === undefined || value === null || value === "") continue;
    if (LISTS.has(key)) for (const each of value) query.append(key, each);
    else query.set(key, value);
  }
  const text = query.toString();
  return `#${next.view}${text ? `?${text}` : ""}`;
}

/** The x axis of a view: what `from` and `to` of the address are measured in. */
export function axisOf(view) {
  const x = state.x ?? "tick";
  if (view === "resources") return x === "elapsed" ? x : "time";
  return view === "ticks" ? "tick" : x;
}

/** The address of another view; a stretch of x is kept only where it means the same. */
export function linkTo(view) {
  if (axisOf(view) === axisOf(state.view)) return link({ view });
  return link({ view, from: undefined, to: undefined, follow: undefined });
}

/** Change the state. `replace`: do not make a step of the browser's history. */
export function go(changes, { replace = false } = {}) {
  const address = link(changes);
  if (address === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  changed();
}

function changed() {
  const before = state;
  state = parse();
  const keys = new Set();
  for (const key of new Set([...Object.keys(before), ...Object.keys(state)])) {
    if (String(before[key]) !== String(state[key])) keys.add(key);
  }
  if (keys.size) for (const listener of [...listeners]) listener(keys);
}

/** Call `listener(changedKeys)` at every change; returns the function that ends it. */
export function onState(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

window.addEventListener("popstate", changed);
window.addEventListener("hashchange", changed);

// --- what belongs to the reader and not to the view ------------------------------------------

export function prefer(name, value) {
  try {
    localStorage.setItem(`metronorm.${name}`, value);
  } catch {
    // storage may be blocked: the choice holds until the page is closed
  }
}

/** What the reader has chosen; null: nothing yet. */
export function preferred(name) {
  try {
    return localStorage.getItem(`metronorm.${name}`);
  } catch {
    return null;
  }
}
