// Numbers of a chart as a table, in a dialog that Escape closes.

import { h, icon } from "../dom.js";
import * as format from "../format.js";
import { t } from "../words.js";

const MOST = 1000;

export function showTable(title, columns, rows) {
  const dialog = h(
    "dialog",
    { class: "table-dialog", "aria-label": title },
    h(
      "header",
      {},
      h("h2", {}, title),
      h("span", { class: "dim" }, t("table.showing", { shown: format.whole(Math.min(MOST, rows.length)), all: format.whole(rows.length) })),
      h("button", { type: "button", class: "quiet", "aria-label": t("close"), on: { click: () => dialog.close() } }, icon("close")),
    ),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, tableOf(columns, rows.slice(0, MOST))),
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}

export function tableOf(columns, rows, { caption = null } = {}) {
  return h(
    "table",
    {},
    caption && h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
    h(
      "tbody",
      {},
      rows.map((row) => h("tr", {}, row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))),
    ),
  );
}
