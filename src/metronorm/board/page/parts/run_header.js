// The head of a view of one run: its name, state and progress, and what a person says about it.

import { colorOf } from "../colors.js";
import { fill, h, icon } from "../dom.js";
import { getRun, isRunning, kindOf, saveNotes } from "../runs.js";
import { go, state } from "../state.js";
import { t } from "../words.js";
import { failure } from "./messages.js";
import { editNotes } from "./notes_dialog.js";
import { aboutRun } from "./rail.js";

export function runHeader(id) {
  const root = h("div", { class: "run-header" });
  const told = h("div", {});
  const element = h("div", {}, root, told);
  const save = async (changes) => {
    try {
      await saveNotes(id, changes);
      fill(told);
    } catch (error) {
      fill(told, failure(error));
    }
  };

  function draw() {
    const run = getRun(id);
    if (!run) {
      fill(root, h("h1", {}, t("run.unknown")));
      return;
    }
    root.style.setProperty("--run", colorOf(run.color));
    const share = run.total ? Math.min(1, run.tick / run.total) : null;
    const toggle = (key, name) =>
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "aria-pressed": String(Boolean(run[key])),
          "aria-label": t(`run.${key}`),
          title: t(`run.${key}`),
          on: { click: () => save({ [key]: !run[key] }) },
        },
        icon(name),
      );
    fill(
      root,
      h("i", { class: "swatch-mark" }),
      h("h1", { title: run.folder }, run.label),
      h("span", { class: "state", "data-kind": kindOf(run) }, aboutRun(run)),
      share !== null && isRunning(run) && h("progress", { max: 1, value: share, "aria-label": t("run.progress") }),
      (run.tags ?? []).map((tag) => h("span", { class: "tag" }, tag)),
      run.note && h("span", { class: "note" }, run.note),
      h(
        "div",
        { class: "buttons" },
        toggle("starred", "star"),
        toggle("hidden", "eye"),
        h(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-pressed": String(state.pin === id),
            "aria-label": t("run.pin"),
            title: t("run.pin"),
            on: {
              click() {
                go({ pin: state.pin === id ? undefined : id }, { replace: true });
                draw();
              },
            },
          },
          icon("pin"),
        ),
        h("button", { type: "button", class: "quiet", "aria-label": t("run.edit"), title: t("run.edit"), on: { click: () => editNotes(run, save) } }, icon("note")),
      ),
    );
  }
  draw();
  return { element, update: draw };
}
