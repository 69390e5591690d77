// What can be written in the search field, listed below it while somebody writes.
//
// | key | does |
// | --- | --- |
// | down, up | choose one of the list |
// | Enter, Tab | write the chosen one |
// | Escape | close the list |

import { getJson } from "../api.js";
import { announce, fill, h } from "../dom.js";
import * as format from "../format.js";
import { getRun, order } from "../runs.js";
import { t } from "../words.js";

const MOST = 40; // at once; more letters find the others
const WAIT_MS = 500; // before names that were not read yet are asked for again
const OF_RUNS = ["state:", "has:", "tag:", "name:", "folder:", "note:", "tick", "total", "age"];
const FLAGS = ["starred", "hidden", "stalled", "damaged"];
const STATES = ["running", "finished", "killed", "failed", "stopped", "stalled", "damaged", "not begun"];
const OF_VALUES = ["min.", "max.", "best."];

/** Words with signs that the search has a meaning for are written in quotes. */
const quoted = (name) => (/[\s<>=:()!"]/.test(name) || name.startsWith("-") ? `"${name.replace(/["\\]/g, "\\$&")}"` : name);

/**
 * What could stand where the cursor is in a search.
 *
 * known: { metrics, config, tags }, lists of names. Returns { from, to, found }: the part of the
 * text that is being written, and what could stand there, the likeliest first.
 */
export function completions(text, cursor, known) {
  const part = text.slice(0, cursor).match(/(?:"(?:[^"\\]|\\.)*"?|[^\s()"])*$/)[0];
  const minus = part.startsWith("-") ? 1 : 0;
  const from = cursor - part.length + minus;
  const to = cursor + text.slice(cursor).match(/^[^\s()]*/)[0].length;
  const written = part.slice(minus);
  const operator = written.match(/^("(?:[^"\\]|\\.)*"|[^\s<>=:()!"]+)[:=]/);
  const name = operator?.[1].toLowerCase();
  if (operator && !["state", "has", "tag"].includes(name)) return { from, to, found: [] };
  const begin = operator ? operator[0].length : 0;
  const wanted = written.slice(begin).replace(/"/g, "").toLowerCase();
  const found = candidates(name, wanted, known).filter((each) => each.toLowerCase().includes(wanted));
  const isWhole = found.length === 1 && found[0].toLowerCase() === wanted;
  const rank = (each) => (each.toLowerCase().startsWith(wanted) ? 0 : 1);
  const sorted = found.map((each, i) => [rank(each), i, each]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return { from: from + begin, to, found: isWhole ? [] : sorted.map(([, , each]) => each) };
}

function candidates(name, wanted, { metrics, config, tags }) {
  const options = config.map((key) => `config.${key}`);
  if (name === "state") return STATES;
  if (name === "tag") return tags;
  if (name === "has") return ["nan", "inf", "note", "tag", ...metrics, ...options];
  const ofValues = OF_VALUES.filter((of) => wanted.startsWith(of)).flatMap((of) => metrics.map((metric) => of + metric));
  return [...OF_RUNS, ...metrics, ...ofValues, ...options, ...FLAGS, ...(wanted ? OF_VALUES : [])];
}

/** A list of completions for a search field; returns the element that holds it. */
export function completing(field) {
  let known = { metrics: [], config: [] };
  let now = { from: 0, to: 0, found: [] };
  let at = -1;
  let isWanted = false; // also while there is nothing to list yet
  const list = h("ul", { class: "completions", id: "completions", role: "listbox", "aria-label": t("search.options"), hidden: true });
  for (const [key, value] of [["role", "combobox"], ["aria-autocomplete", "list"], ["aria-controls", "completions"], ["aria-expanded", "false"], ["autocomplete", "off"]]) {
    field.setAttribute(key, value);
  }

  let asking = null;
  async function ask() {
    asking = null;
    known = await getJson("columns").catch(() => known);
    if (isWanted) show();
    if (known.waiting) asking ??= setTimeout(ask, WAIT_MS);
  }

  function show() {
    const tags = [...new Set(order.flatMap((id) => getRun(id)?.tags ?? []))];
    now = completions(field.value, field.selectionStart ?? field.value.length, { ...known, tags });
    at = -1;
    isWanted = true;
    const shown = now.found.slice(0, MOST);
    fill(
      list,
      shown.map((word, i) =>
        h("li", { role: "option", id: `completion-${i}`, "aria-selected": "false", on: { mousedown: (event) => event.preventDefault(), click: () => take(i) } }, word),
      ),
      now.found.length > MOST &&
        h("li", { class: "dim", role: "option", "aria-disabled": "true" }, t("search.showing", { shown: format.whole(MOST), all: format.whole(now.found.length) })),
    );
    list.hidden = !shown.length;
    field.setAttribute("aria-expanded", String(!list.hidden));
    field.removeAttribute("aria-activedescendant");
  }

  function close() {
    isWanted = false;
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  }

  function choose(next) {
    const count = Math.min(MOST, now.found.length);
    list.children[at]?.setAttribute("aria-selected", "false");
    at = (next + count) % count;
    list.children[at].setAttribute("aria-selected", "true");
    list.children[at].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", `completion-${at}`);
  }

  function take(number) {
    const word = now.found[number];
    const goesOn = OF_RUNS.includes(word) || OF_VALUES.includes(word); // something must follow
    field.setRangeText(goesOn ? word : quoted(word), now.from, now.to, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
    if (!goesOn) close();
    announce(word);
  }

  field.addEventListener("focus", () => {
    asking ??= setTimeout(ask);
  });
  field.addEventListener("input", show);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) show();
      if (list.hidden) return;
      choose(at < 0 ? (event.key === "ArrowDown" ? 0 : -1) : at + (event.key === "ArrowDown" ? 1 : -1));
    } else if (list.hidden) return;
    else if (event.key === "Escape") close();
    else if ((event.key === "Enter" || event.key === "Tab") && at >= 0) take(at);
    else return;
    event.preventDefault();
    event.stopImmediatePropagation(); // Escape would clear the field
  });
  return list;
}
