// Config: what the run was given, with which versions, on which machine, from which commit.

import { getJson, ofRun } from "../api.js";
import { breakable, fill, h } from "../dom.js";
import * as format from "../format.js";
import { flat } from "../parts/groups.js";
import { runView } from "../parts/run_view.js";
import { t } from "../words.js";

export const open = (root) =>
  runView(root, async ({ id, info, bar, place }) => {
    const found = await getJson(ofRun(id, "config"));
    const lists = [
      [t("config.options"), flat(found.config ?? {})],
      [t("config.versions"), flat(found.versions ?? {})],
      [t("config.machine"), flat(found.host ?? {})],
      [t("config.git"), flat(typeof found.git === "string" ? { commit: found.git } : (found.git ?? {}))],
      [t("config.command"), found.command ? { [t("config.command")]: [found.command].flat().join(" ") } : {}],
    ].filter(([, values]) => Object.keys(values).length);
    const panels = lists.map(([title, values]) => panel(title, values));
    const filter = h("input", {
      type: "search",
      class: "field",
      placeholder: t("config.filter"),
      "aria-label": t("config.filter"),
      on: {
        input() {
          const text = filter.value.toLowerCase();
          for (const row of place.querySelectorAll("dl > div")) row.hidden = !row.textContent.toLowerCase().includes(text);
        },
      },
    });
    fill(bar, filter);
    const notices = [...(info.notices ?? []), ...(found.left_out ? [t("config.leftout")] : [])];
    fill(
      place,
      notices.map((notice) => h("p", { class: "notice" }, notice)),
      h("div", { class: "panels" }, panels, found.changes?.length > 0 && changes(found.changes)),
    );
    return {};
  });

function panel(title, values) {
  return h("section", { class: "panel" }, h("h2", {}, title), h("dl", { class: "options" }, Object.entries(values).map(([key, value]) => h("div", {}, h("dt", {}, breakable(key)), h("dd", {}, format.withUnit(key, value))))));
}

function changes(list) {
  return h(
    "section",
    { class: "panel" },
    h("h2", {}, t("config.changes")),
    list.map(({ attempt, time_ns: time, ...fields }) =>
      h("div", {}, h("p", { class: "dim" }, `${t("ghost.short", { attempt })} · ${format.moment(time / 1e6)}`), h("pre", { class: "command" }, JSON.stringify(fields, null, 2))),
    ),
  );
}
