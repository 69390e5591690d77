// Compare: what differs between two runs, and by how much their times and losses differ.

import { ApiError, getJson, ofRun } from "../api.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { empty, failure } from "../parts/messages.js";
import { loadSentences, measureWords, sentence } from "../parts/sentences.js";
import { getRun, order } from "../runs.js";
import { state, go } from "../state.js";
import { tableOf } from "../parts/table_dialog.js";
import { t } from "../words.js";

export function open(root) {
  const bar = h("div", { class: "toolbar" });
  const place = h("div", {});
  let number = 0;

  const a = () => state.a;
  const b = () => state.run;

  function chooser(key, words, now) {
    return h(
      "label",
      { class: "select" },
      h("span", {}, words),
      h(
        "select",
        { on: { change: (event) => go({ [key]: event.target.value }, { replace: true }) } },
        order.map((id) => {
          const option = h("option", { value: id }, getRun(id).label);
          option.selected = id === now;
          return option;
        }),
      ),
    );
  }

  async function begin() {
    const mine = (number += 1);
    fill(root, h("h1", { class: "sr" }, t("view.compare")), bar, place);
    if (order.length < 2) {
      fill(bar);
      bar.hidden = true;
      fill(place, empty(t("compare.two"), t("compare.two.why")));
      return;
    }
    bar.hidden = false;
    fill(bar, chooser("a", t("compare.a"), a()), chooser("run", t("compare.b"), b()));
    if (a() === b()) {
      fill(place, empty(t("compare.same"), t("compare.same.why")));
      return;
    }
    fill(place, h("div", { class: "card skeleton" }));
    try {
      const [found] = await Promise.all([getJson(ofRun(a(), "compare"), { with: b() }), loadSentences()]);
      if (mine === number) fill(place, parts(found));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (mine === number) fill(place, failure(error, begin));
    }
  }

  function parts(found) {
    const said = [...(found.statements ?? []), ...(found.notes ?? [])];
    const names = [`A · ${getRun(a()).label}`, `B · ${getRun(b()).label}`];
    return [
      h("section", { class: "panel" }, h("h2", {}, t("compare.said")), h("ul", { class: "statements" }, said.map(sentence).map(([words, lang]) => h("li", { lang }, words)))),
      found.measures?.length > 0 &&
        h(
          "section",
          { class: "panel scroll", tabindex: "0", role: "region", "aria-label": t("compare.measures") },
          h("h2", {}, t("compare.measures")),
          tableOf([t("compare.measure"), ...names, t("compare.change"), t("compare.interval")], found.measures.map(measure)),
        ),
      h(
        "div",
        { class: "panels" },
        differences(t("config.options"), found.config, names),
        differences(t("config.versions"), found.versions, names),
        differences(t("config.machine"), found.host, names),
        git(found.git, names),
      ),
    ];
  }

  begin();
  return {
    update(keys) {
      if (keys.has("run") || keys.has("a")) begin();
    },
    runs(ids) {
      if (ids === null) begin();
    },
    close() {
      number += 1;
    },
  };
}

function measure({ name, unit, a, b, ratio, low, high }) {
  const one = (value) => (unit === "ns" ? format.duration(value) : unit === "bytes" ? format.bytes(value) : format.value(value));
  const by = (share) => (share === "inf" ? "+∞" : Number.isFinite(share) ? `${share >= 1 ? "+" : ""}${format.percent(share - 1)}` : "–");
  return [measureWords(name.replace(/_ns$|_bytes$/, "").replaceAll("_", " ")), one(a), one(b), by(ratio), Number.isFinite(low) ? `${by(low)} … ${by(high)}` : "–"];
}

function differences(title, list, names) {
  return h(
    "section",
    { class: "panel scroll differences", tabindex: "0", role: "region", "aria-label": title },
    h("h2", {}, title),
    list?.length
      ? tableOf([t("config.option"), ...names], list.map(({ key, a, b }) => [key, format.value(a ?? null), format.value(b ?? null)]))
      : h("p", { class: "dim" }, t("compare.equal")),
  );
}

function git(found, names) {
  if (!found?.a && !found?.b) return null;
  const words = (side) => (typeof side === "string" ? side : side ? Object.values(side).map(String).join(" ") : "–");
  return h(
    "section",
    { class: "panel scroll", tabindex: "0", role: "region", "aria-label": t("config.git") },
    h("h2", {}, t("config.git")),
    tableOf([t("config.option"), ...names], [["git", words(found.a), words(found.b)]]),
    found.diff && h("pre", { class: "command" }, found.diff),
  );
}
