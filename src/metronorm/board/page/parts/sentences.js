// What the server says in English sentences, for readers of Chinese: the titles and advice of the
// rules of a diagnosis, and the sentences of a comparison. What is not known stays English.

import { language } from "../words.js";

let known = { rules: {}, evidence: {}, measures: {}, sentences: [] };
let asked = null;

/** Load them, if the reader's language needs any. */
export function loadSentences() {
  if (language !== "zh") return Promise.resolve();
  asked ??= fetch(new URL("../sentences.zh.json", import.meta.url))
    .then((answer) => answer.json())
    .then((found) => {
      known = found;
    })
    .catch(() => {
      asked = null; // English it is, this time
    });
  return asked;
}

/** { title, advice } of a rule, or null. */
export const ruleWords = (rule) => known.rules[rule] ?? null;

export const evidenceWords = (name) => known.evidence[name] ?? name;

export const measureWords = (name) => known.measures[name] ?? name.replace(/^phase /, language === "zh" ? "阶段 " : "phase ");

/** A sentence as [words, the language they are in, or null for that of the page]. */
export function sentence(text) {
  if (language !== "zh") return [text, null];
  for (const [pattern, words] of known.sentences) {
    const match = text.match(new RegExp(pattern, "s"));
    if (match) return [words.replace(/\{(\d)\}/g, (_, number) => match[number]), null];
  }
  return [text, "en"];
}
