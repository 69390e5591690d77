// The table of runs: sorted, grouped, with the baseline first and differences to it in percent.

import { colorOf } from "../colors.js";
import { fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { ageOf, getRun, kindOf, saveNotes, shownIds, toggleShown } from "../runs.js";
import { go, link, state } from "../state.js";
import { counted, t } from "../words.js";
import { editNotes } from "./notes_dialog.js";
import { stateWords } from "./rail.js";

const AT_ONCE = 150; // rows: a thousand take a second
const FIXED = ["name", "state", "tick", "begun"];

/** What a column is called: "loss last", or the key of the config. */
export function columnWords(column) {
  const [how, name] = split(column);
  return how === "config" ? name : how === "cursor" ? t("column.cursor") : `${name} ${t(`column.${how}`)}`;
}

export function split(column) {
  const at = column.indexOf(":");
  return at < 0 ? [column, ""] : [column.slice(0, at), column.slice(at + 1)];
}

/** ids in the order of the address: "-last:loss" is descending; the baseline stands first. */
export function sorted(ids, cells) {
  const wanted = state.sort ?? "-begun";
  const column = wanted.replace(/^-/, "");
  const sign = wanted.startsWith("-") ? -1 : 1;
  const keyed = ids.map((id) => [id, sortable(id, column, cells)]);
  keyed.sort(([, a], [, b]) => compare(a, b, sign));
  const order = keyed.map(([id]) => id);
  const starred = order.filter((id) => getRun(id).starred && id !== state.pin);
  const rest = order.filter((id) => !getRun(id).starred && id !== state.pin);
  return [...order.filter((id) => id === state.pin), ...starred, ...rest];
}

function compare(a, b, sign) {
  const missing = (x) => x === null || x === undefined || Number.isNaN(x);
  if (missing(a) || missing(b)) return missing(a) - missing(b); // what is missing stands last
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortable(id, column, cells) {
  const run = getRun(id);
  if (column === "name") return run.label;
  if (column === "state") return run.state;
  if (column === "tick") return run.tick;
  if (column === "begun") return run.begun_ns;
  const value = cells(id, column);
  return format.number(value) ?? value;
}

/**
 * groups: Map(label -> ids), or null. cells(id, column): the value of a chosen column.
 * Returns { element, ids, rows, close }: rows are those that are drawn, the others follow when the
 * reader comes near the end.
 */
export function runTable({ ids, columns, cells, groups }) {
  const rows = new Map();
  const shown = new Set(shownIds());
  const lines = groups
    ? [...groups].flatMap(([label, own]) => [{ label, own }, ...sorted(own, cells)])
    : sorted(ids, cells);
  const body = h("tbody", {});
  const more = h("button", { type: "button", on: { click: () => add() } });
  const foot = h("tfoot", {}, h("tr", {}, h("td", { class: "text", colspan: FIXED.length + columns.length + 2 }, more)));
  let at = 0;
  const add = () => {
    const next = lines.slice(at, at + AT_ONCE);
    at += next.length;
    body.append(
      ...next.map((line) => {
        if (line.own) return groupRow(line.label, line.own, columns, cells);
        const row = rowOf(line, columns, cells, shown.has(line));
        rows.set(line, row);
        return row.element;
      }),
    );
    more.textContent = t("metrics.more", { shown: format.whole(rows.size), all: format.whole(ids.length) });
    foot.hidden = at >= lines.length;
  };
  add();
  const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && !foot.hidden && add(), { rootMargin: "400px" });
  observer.observe(foot);
  const element = h(
    "table",
    { class: "run-table" },
    h("caption", { class: "sr" }, t("view.runs")),
    h("thead", {}, h("tr", {}, h("td", {}), FIXED.concat(columns).map(headOf), h("td", {}))),
    body,
    foot,
  );
  return { element, ids: new Set(ids), rows, close: () => observer.disconnect() };
}

function headOf(column) {
  const wanted = state.sort ?? "-begun";
  const direction = wanted === column ? "ascending" : wanted === `-${column}` ? "descending" : null;
  const words = FIXED.includes(column) ? t(`column.${column}`) : columnWords(column);
  const arrow = direction === "ascending" ? " ↑" : direction === "descending" ? " ↓" : "";
  return h(
    "th",
    { scope: "col", class: column === "name" || column === "state" ? "text" : null, "aria-sort": direction },
    h(
      "button",
      {
        type: "button",
        class: "sort",
        title: words,
        on: { click: () => go({ sort: direction === "ascending" ? `-${column}` : column }, { replace: true }) },
      },
      words + arrow,
    ),
  );
}

function rowOf(id, columns, cells, isShown) {
  const run = getRun(id);
  const name = h("th", { scope: "row", class: "text" });
  const stateCell = h("td", { class: "text" });
  const tick = h("td", {});
  const begun = h("td", {});
  const values = new Map(columns.map((column) => [column, h("td", { class: split(column)[0] === "config" ? "text" : null })]));
  const save = (changes) => saveNotes(id, changes).catch((error) => window.alert(error.message));
  const button = (words, picture, click) =>
    h("button", { type: "button", class: "quiet", "aria-label": `${words}: ${run.label}`, title: words, on: { click } }, icon(picture));
  const star = button(t("run.starred"), "star", () => save({ starred: !getRun(id).starred }));
  const hide = button(t("run.hidden"), "eye", () => save({ hidden: !getRun(id).hidden }));
  const pin = button(t("run.pin"), "pin", () => go({ pin: state.pin === id ? undefined : id }, { replace: true }));
  const note = button(t("run.edit"), "note", () => editNotes(getRun(id), save));
  const swatch = h("input", { type: "checkbox", class: "swatch", checked: isShown, "aria-label": t("rail.show", { name: run.label }), on: { change: () => toggleShown(id) } });
  const element = h(
    "tr",
    { class: id === state.pin ? "pinned" : null },
    h("td", { class: "marks" }, swatch),
    name,
    stateCell,
    tick,
    begun,
    [...values.values()],
    h("td", { class: "actions" }, star, pin, hide, note),
  );
  const row = {
    element,
    update() {
      const now = getRun(id);
      if (!now) return;
      const age = ageOf(now);
      element.style.setProperty("--run", colorOf(now.color));
      fill(
        name,
        h("a", { href: link({ view: "metrics", run: id }) }, now.label),
        (now.tags ?? []).map((tag) => h("span", { class: "tag" }, tag)),
        now.note && h("p", { class: "dim note" }, now.note),
        now.damaged && h("p", { class: "damage" }, now.damaged),
      );
      const standing = now.damaged ? t("state.damaged") : now.stalled ? t("state.stalled") : stateWords(now.state);
      fill(stateCell, h("span", { class: "state", "data-kind": kindOf(now) }, standing));
      stateCell.title = age === null ? "" : t("ago", { time: format.seconds(Math.max(0, Math.round(age / 1e9))) });
      fill(tick, format.whole(now.tick ?? 0), now.total && h("span", { class: "dim" }, ` / ${format.whole(now.total)}`));
      begun.textContent = now.begun_ns ? format.moment(now.begun_ns / 1e6, 60e3) : "–";
      for (const [each, pressed] of [[star, now.starred], [hide, now.hidden], [pin, id === state.pin]]) {
        each.setAttribute("aria-pressed", String(Boolean(pressed)));
      }
      row.values();
    },
    values() {
      for (const column of columns) row.cell(column);
    },
    cell(column) {
      const value = cells(id, column);
      const own = format.number(value);
      const base = state.pin && state.pin !== id && split(column)[0] !== "config" ? format.number(cells(state.pin, column)) : null;
      fill(
        values.get(column),
        value === undefined || value === null ? "–" : cellWords(split(column), own ?? value),
        base !== null && own !== null && h("span", { class: "dim diff" }, ` ${format.change(own, base)}`),
      );
    },
  };
  row.update();
  return row;
}

const cellWords = ([how, name], value) => (how === "config" ? format.value(value) : format.fourDigits(name, value));

/** The head of a group: how many runs, and the mean of each column with its standard error. */
function groupRow(label, ids, columns, cells) {
  const mean = (column) => {
    if (split(column)[0] === "config") return "";
    const values = ids.map((id) => format.number(cells(id, column))).filter(Number.isFinite);
    if (!values.length) return "";
    const middle = values.reduce((sum, each) => sum + each, 0) / values.length;
    if (values.length < 2) return format.value(middle);
    const variance = values.reduce((sum, each) => sum + (each - middle) ** 2, 0) / (values.length - 1);
    return `${format.value(middle)} ± ${format.value(Number(Math.sqrt(variance / values.length).toPrecision(2)))}`;
  };
  return h(
    "tr",
    { class: "group" },
    h("td", {}),
    h("th", { scope: "row", class: "text", colspan: FIXED.length }, `${state.group} = ${label}`, h("span", { class: "dim" }, ` · ${counted("group.runs", ids.length)}`)),
    columns.map((column) => h("td", {}, mean(column))),
    h("td", {}),
  );
}
