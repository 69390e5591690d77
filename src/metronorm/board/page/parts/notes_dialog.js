// A dialog for what a person says about a run: a note, tags, and the colour of its lines.

import { HUES, colorOf } from "../colors.js";
import { h } from "../dom.js";
import { t } from "../words.js";

/** save(changes): takes the new values by their names, as `saveNotes` does. */
export function editNotes(run, save) {
  const note = h("textarea", { id: "note-text", rows: 4, class: "field", value: run.note ?? "" });
  const tags = h("input", { id: "note-tags", class: "field", value: (run.tags ?? []).join(", ") });
  const color = colorChoice(run.color);
  const submit = () =>
    save({
      note: note.value.trim(),
      tags: tags.value.split(/[,，]/).map((tag) => tag.trim()).filter(Boolean),
      ...(color.changed() && { color: color.value() }),
    });
  const dialog = h(
    "dialog",
    { class: "small-dialog", "aria-label": t("run.edit") },
    h(
      "form",
      { method: "dialog", on: { submit } },
      h("h2", {}, run.label),
      h("label", { for: "note-text" }, t("run.note")),
      note,
      h("label", { for: "note-tags" }, t("run.tags")),
      tags,
      color.element,
      h("div", { class: "buttons" }, h("button", { type: "button", on: { click: () => dialog.close() } }, t("cancel")), h("button", { class: "main" }, t("save"))),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** One of the hues, any other colour, or "" for the one that goes with the run's id. */
function colorChoice(now) {
  const chosen = typeof now === "string" ? now : "";
  const radio = (value, words = null) =>
    h("input", { type: "radio", name: "run-color", value, checked: value === chosen, "aria-label": words, title: words });
  const other = radio(chosen && !HUES.includes(chosen) ? chosen : "other");
  const picker = h("input", {
    type: "color",
    value: chosen || HUES[0],
    "aria-label": t("color.other"),
    on: { input: () => Object.assign(other, { checked: true, value: picker.value }) },
  });
  const element = h(
    "fieldset",
    { class: "hues" },
    h("legend", {}, t("run.color")),
    h("label", {}, radio(""), t("color.own")),
    HUES.map((hue, i) => h("span", { class: "hue", style: { "--run": colorOf(hue) } }, radio(hue, t(`color.${i}`)))),
    h("label", {}, other, t("color.other"), picker),
  );
  const value = () => {
    const found = element.querySelector("input:checked").value;
    return found === "other" ? picker.value : found;
  };
  return { element, value, changed: () => value() !== chosen };
}
