// The rail: every run with its colour, state and age; a search; which runs the charts show.

import { ApiError, getJson } from "../api.js";
import { colorOf } from "../colors.js";
import { fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { ageOf, findRuns, focusId, getRun, isRunning, kindOf, listedIds, loaded, onRuns, order, OVERLAYS, shownIds, toggleShown } from "../runs.js";
import { go, link, onState, state } from "../state.js";
import { t } from "../words.js";
import { completing } from "./completion.js";

const MOST_ROWS = 200; // in the rail; the table has all

export function openRail(root) {
  const field = h("input", {
    type: "search",
    class: "field",
    id: "search",
    placeholder: "loss<1.5 state:killed has:nan",
    "aria-label": t("search"),
    "aria-describedby": "search-told",
    value: state.q ?? "",
    spellcheck: "false",
    on: { input: () => later() },
  });
  const completions = completing(field);
  field.addEventListener("keydown", (event) => event.key === "Escape" && ((field.value = ""), later()));
  const told = h("p", { class: "told", id: "search-told" });
  const list = h("ul", { class: "runs" });
  const all = h("a", { class: "all", href: "#" });
  const count = h("p", { class: "count" });
  fill(root, h("div", { class: "search" }, icon("search"), field, completions), told, all, list, count);
  root.setAttribute("aria-label", t("runs"));

  let timer = null;
  function later() {
    clearTimeout(timer);
    timer = setTimeout(() => go({ q: field.value.trim() || undefined }, { replace: true }), 200);
  }

  let asked = null;
  let repeat = null;
  async function search() {
    asked?.abort();
    const q = state.q;
    told.textContent = "";
    field.removeAttribute("aria-invalid");
    let found = null;
    if (q) {
      asked = new AbortController();
      try {
        const answer = await getJson("search", { q }, asked.signal);
        if (answer.error) {
          told.textContent = answer.error;
          field.setAttribute("aria-invalid", "true");
          return;
        }
        found = answer.ids;
        if (answer.waiting) {
          told.textContent = t("search.waiting", { n: format.whole(answer.waiting) });
          clearTimeout(repeat);
          repeat = setTimeout(() => state.q === q && search(), WAIT_MS);
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        if (!(error instanceof ApiError)) throw error;
        told.textContent = error.message;
        return;
      }
    }
    findRuns(found);
    draw();
  }

  const rows = new Map();
  function draw() {
    const ids = listedIds();
    const shown = new Set(shownIds());
    const focus = OVERLAYS.has(state.view) ? (state.run ?? null) : focusId();
    const drawn = ids.slice(0, MOST_ROWS);
    const kept = drawn.map((id) => {
      const row = rows.get(id) ?? makeRow(id);
      rows.set(id, row);
      row.update(shown.has(id), id === focus);
      return row.element;
    });
    if (kept.length !== list.children.length || kept.some((each, i) => list.children[i] !== each)) {
      list.replaceChildren(...kept);
    }
    all.textContent = t("rail.all", { n: shown.size });
    all.href = link({ run: undefined, view: state.view === "runs" ? "runs" : "metrics" });
    if (focus === null) all.setAttribute("aria-current", "true");
    else all.removeAttribute("aria-current");
    count.textContent = loaded
      ? t("rail.showing", { shown: shown.size, listed: drawn.length, all: order.length })
      : "";
  }

  onState((keys) => {
    if (keys.has("q")) {
      if (document.activeElement !== field) field.value = state.q ?? "";
      search();
    } else {
      draw();
    }
  });
  onRuns((ids) => {
    if (ids === null) {
      if (state.q) search();
      draw();
    } else {
      for (const id of ids) rows.get(id)?.update();
    }
  });
  setInterval(() => {
    if (!document.hidden) for (const row of rows.values()) row.age();
  }, 5000);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest?.("input, textarea, select, dialog")) {
      event.preventDefault();
      field.focus();
    }
  });
  if (state.q) search();
  draw();
}

function makeRow(id) {
  const eye = h("input", { type: "checkbox", class: "swatch", on: { change: () => toggleShown(id) } });
  const name = h("span", { class: "name" });
  const about = h("span", { class: "about" });
  const anchor = h("a", { href: "#", class: "run" }, name, about);
  const element = h("li", {}, eye, anchor);
  let isShown = false;
  let isFocus = false;
  const row = {
    element,
    update(shown = isShown, focus = isFocus) {
      [isShown, isFocus] = [shown, focus];
      const run = getRun(id);
      if (!run) return;
      eye.checked = shown;
      eye.setAttribute("aria-label", t("rail.show", { name: run.label }));
      element.style.setProperty("--run", colorOf(run.color));
      element.dataset.kind = kindOf(run);
      name.textContent = run.label;
      name.title = run.folder ? `${run.label}\n${run.folder}` : run.label;
      anchor.href = link({ run: id, view: state.view === "runs" ? "metrics" : state.view });
      if (focus) anchor.setAttribute("aria-current", "true");
      else anchor.removeAttribute("aria-current");
      row.age();
    },
    age() {
      const run = getRun(id);
      const words = run ? aboutRun(run) : "";
      if (about.textContent !== words) about.textContent = words; // else the page is laid out again
    },
  };
  return row;
}

/** "running · 1,240 of 2,000 · 3 s ago" */
export function aboutRun(run) {
  if (run.damaged) return t("state.damaged");
  const parts = [run.stalled ? t("state.stalled") : stateWords(run.state)];
  if (run.tick) parts.push(run.total ? `${format.whole(run.tick)} / ${format.whole(run.total)}` : format.whole(run.tick));
  const age = ageOf(run);
  if (isRunning(run) && age !== null) parts.push(t("ago", { time: format.seconds(Math.max(0, Math.round(age / 1e9))) }));
  return parts.join(" · ");
}

/** A state in the reader's language; what follows a colon is data. */
export function stateWords(word) {
  if (!word) return "…"; // the server has not read it yet
  const [, head, rest] = word.match(/^(failed|stopped by|stopped|killed|finished|running or killed|running|stalled|not begun)(.*)$/s) ?? [null, word, ""];
  const known = t(`state.${head}`);
  return (known === `state.${head}` ? head : known) + rest;
}
