// Diagnosis: what is wrong with a run, the most severe first, each with the ticks to look at.

import { getJson, ofRun } from "../api.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { empty } from "../parts/messages.js";
import { runView } from "../parts/run_view.js";
import { evidenceWords, loadSentences, ruleWords } from "../parts/sentences.js";
import { link } from "../state.js";
import { t } from "../words.js";

export const open = (root) =>
  runView(root, async ({ id, place }) => {
    const [{ findings }] = await Promise.all([getJson(ofRun(id, "diagnosis")), loadSentences()]);
    if (!findings.length) fill(place, empty(t("diagnosis.none"), t("diagnosis.none.why")));
    else fill(place, h("ul", { class: "findings" }, findings.map((finding) => h("li", {}, found(id, finding)))));
    return {};
  }, { hasBar: false });

function found(id, { rule, severity, what, advice, evidence, ticks }) {
  const own = ruleWords(rule); // in the reader's language; the sentence with the numbers is English
  return h(
    "article",
    { class: "finding", "data-severity": severity, "aria-label": own?.title ?? rule },
    h("header", {}, h("span", { class: "severity" }, t(`severity.${severity}`)), h("h2", {}, own?.title ?? what)),
    h("p", {}, own?.advice ?? advice),
    evidence.length > 0 && h("dl", {}, evidence.map(([name, text]) => h("div", {}, h("dt", {}, evidenceWords(name)), h("dd", {}, text)))),
    own && h("p", { lang: "en", class: "dim" }, what),
    ticks.length > 0 && h("p", { class: "ticks" }, t("diagnosis.look"), ticks.map((tick) => h("a", { href: around(id, tick) }, format.whole(tick)))),
    h("code", { class: "dim" }, rule),
  );
}

const around = (id, tick) => link({ view: "metrics", run: id, x: undefined, from: tick - 50, to: tick + 50 });
