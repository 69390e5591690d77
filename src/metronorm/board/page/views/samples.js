// Samples: text, pictures, audio and tables that the run left to look at, the newest first. Text is
// shown as text whatever it holds; pictures and audio come from the server with a sandbox.

import { getJson, ofRun } from "../api.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { empty, failure } from "../parts/messages.js";
import { runView } from "../parts/run_view.js";
import { select } from "../parts/toolbar.js";
import { tableOf } from "../parts/table_dialog.js";
import { state } from "../state.js";
import { t } from "../words.js";

const AT_ONCE = 24;
const MOST_TEXT = 20_000; // characters
const MOST_ROWS = 100;

export const open = (root) =>
  runView(root, async ({ id, bar, place }) => {
    const { samples } = await getJson(ofRun(id, "samples"));
    if (!samples.length) {
      fill(place, empty(t("samples.none"), t("samples.none.why"), 'clock.sample("poem", text)'));
      return {};
    }
    const names = [...new Set(samples.map(({ name }) => name))];
    fill(bar, select("sample", t("samples.name"), ["", ...names], "", (name) => name || t("samples.all")));
    const listed = samples.filter(({ name }) => !state.sample || name === state.sample).reverse();
    const cards = h("div", { class: "samples" });
    let shown = 0;
    const more = h("button", { type: "button", on: { click: add } });
    function add() {
      cards.append(...listed.slice(shown, shown + AT_ONCE).map((sample) => cardOf(id, sample)));
      shown = Math.min(listed.length, shown + AT_ONCE);
      more.textContent = t("metrics.more", { shown, all: listed.length });
      more.hidden = shown >= listed.length;
    }
    add();
    fill(place, cards, more);
    return { keys: ["sample"] };
  });

function cardOf(id, sample) {
  const address = `api/${ofRun(id, `samples/${sample.number}`)}`;
  const words = `${sample.name}, ${t("at.tick", { x: format.whole(sample.tick) })}`;
  const body = h("div", { class: "sample-body", tabindex: "0", role: "region", "aria-label": `${words}, ${sample.number}` });
  if (sample.kind === "picture") fill(body, h("img", { src: address, alt: words, loading: "lazy" }));
  else if (sample.kind === "audio") fill(body, h("audio", { src: address, controls: true, preload: "none", "aria-label": words }));
  else read(body, address, sample.kind);
  return h(
    "article",
    { class: "sample" },
    h("header", {}, h("h2", {}, sample.name), h("span", { class: "dim" }, t("at.tick", { x: format.whole(sample.tick) })), sample.attempt > 0 && h("span", { class: "dim" }, t("ghost.short", { attempt: sample.attempt }))),
    body,
  );
}

async function read(body, address, kind) {
  try {
    const answer = await fetch(address);
    const text = await answer.text();
    if (!answer.ok) throw new Error(JSON.parse(text).error);
    if (kind === "table") fill(body, rowsOf(text));
    else fill(body, h("pre", {}, text.slice(0, MOST_TEXT)), text.length > MOST_TEXT && h("p", { class: "dim" }, t("samples.cut", { n: format.whole(text.length) })));
  } catch (error) {
    fill(body, failure(error));
  }
}

function rowsOf(text) {
  const all = text.split("\n").filter(Boolean);
  const rows = all.slice(0, MOST_ROWS).map((line) => JSON.parse(line));
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return tableOf(columns, rows.map((row) => columns.map((name) => format.value(row[name] ?? null))), {
    caption: t("table.showing", { shown: rows.length, all: all.length }),
  });
}
