// A dialog to choose the columns of the table: values of metrics, and keys of the config.

import { fill, h, icon } from "../dom.js";
import * as format from "../format.js";
import { go } from "../state.js";
import { t } from "../words.js";
import { columnWords } from "./run_table.js";

const HOW = ["last", "best", "min", "max"];
const MOST = 100; // names at once; a filter finds the others

export function pickColumns(known, chosen) {
  const picked = new Set(chosen);
  const list = h("div", { class: "pick-list" });
  const filter = h("input", { type: "search", class: "field", "aria-label": t("columns.filter"), placeholder: t("columns.filter"), on: { input: draw } });
  const box = (column) =>
    h(
      "label",
      {},
      h("input", { type: "checkbox", checked: picked.has(column), on: { change: (event) => (event.target.checked ? picked.add(column) : picked.delete(column)) } }),
      columnWords(column),
    );

  function draw() {
    const text = filter.value.toLowerCase();
    const all = [
      ...(text ? [] : ["cursor:"]),
      ...known.metrics.flatMap((name) => HOW.map((how) => `${how}:${name}`)),
      ...known.config.map((key) => `config:${key}`),
    ].filter((column) => column.toLowerCase().includes(text) || columnWords(column).toLowerCase().includes(text));
    const first = [...all.filter((column) => picked.has(column)), ...all.filter((column) => !picked.has(column))];
    fill(list, first.slice(0, MOST).map(box), h("p", { class: "dim" }, t("columns.showing", { shown: Math.min(MOST, all.length), all: format.whole(all.length) })));
  }
  draw();
  const dialog = h(
    "dialog",
    { class: "small-dialog", "aria-label": t("columns") },
    h(
      "form",
      { method: "dialog", on: { submit: () => go({ cols: [...picked] }, { replace: true }) } },
      h("header", {}, h("h2", {}, t("columns")), h("button", { type: "button", class: "quiet", "aria-label": t("close"), on: { click: () => dialog.close() } }, icon("close"))),
      filter,
      list,
      h("div", { class: "buttons" }, h("button", { type: "button", on: { click: () => go({ cols: undefined }, { replace: true }) || dialog.close() } }, t("columns.usual")), h("button", { class: "main" }, t("save"))),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
