// What is said where there is nothing to see: empty and error states, each with what to do.

import { h } from "../dom.js";
import { roots } from "../runs.js";
import { t } from "../words.js";

/** An error in its own place: what must hold, what arrived, what to try. */
export function failure(error, again) {
  return h(
    "div",
    { class: "message error", role: "alert" },
    h("strong", {}, error.message),
    error.got && h("p", {}, `${t("error.got")} ${error.got}`),
    error.fix && h("p", {}, `${t("error.fix")} ${error.fix}`),
    again && h("button", { type: "button", on: { click: again } }, t("again")),
  );
}

/** What is said before the first run begins. */
export const noRuns = () => empty(t("runs.none"), t("runs.none.why", { folders: roots.join(", ") }), "metronorm train");

/** A place that is empty for a reason: a title, why, and a command to copy. */
export function empty(title, why, command) {
  return h(
    "div",
    { class: "message" },
    h("strong", {}, title),
    why && h("p", {}, why),
    command && h("pre", { class: "command" }, h("code", {}, command)),
  );
}
