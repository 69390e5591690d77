// The keys, and the words of the search, in a dialog.

import { h, icon } from "../dom.js";
import { t } from "../words.js";

const KEYS = [
  ["/", "search"], ["?", "help"], ["← →", "point"], ["PgUp PgDn Home End", "leap"], ["↑ ↓", "line"], ["+ − 0", "zoom"],
  ["⇧← ⇧→", "pan"], ["f", "follow"], ["n", "nan"], ["c", "clip"], ["t", "table"], ["w", "wide"],
];
const GESTURES = [["drag", "choose"], ["shift", "pan"], ["ctrl", "zoom"], ["double", "whole"], ["finger", "pan"], ["pinch", "zoom"]];
const QUERIES = ["loss<1.5", "state:killed", "has:nan", "config.optimizer.name=ticks", "tag:baseline", "loss<2 -state:running"];

export function showHelp() {
  const rows = (list) => h("dl", { class: "keys" }, list.map(([key, words]) => h("div", {}, h("dt", {}, key), h("dd", {}, words))));
  const dialog = h(
    "dialog",
    { class: "small-dialog", "aria-label": t("help") },
    h(
      "form",
      { method: "dialog" },
      h("header", {}, h("h2", {}, t("help")), h("button", { class: "quiet", "aria-label": t("close") }, icon("close"))),
      h("h2", {}, t("help.keys")),
      rows(KEYS.map(([key, name]) => [key, t(`key.${name}`)])),
      h("h2", {}, t("help.gestures")),
      rows(GESTURES.map(([name, does]) => [t(`gesture.${name}`), t(`key.${does}`)])),
      h("h2", {}, t("help.search")),
      h("p", {}, QUERIES.map((query) => [h("code", { class: "query" }, query), " "])),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !event.target.closest?.("input, textarea, select, dialog")) showHelp();
});
