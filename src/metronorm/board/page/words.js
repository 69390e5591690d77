// The words of the page in the chosen language: words.en.json and words.zh.json have the same keys.

let words = {};
export let language = "en";

export async function loadWords(chosen) {
  language = chosen === "zh" ? "zh" : "en";
  const address = new URL(`words.${language}.json`, import.meta.url).href;
  const answer = await (globalThis.early?.answers.get(address) ?? fetch(address));
  words = await answer.json();
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
}

/** The words of a key; {name} stands for the value of that name. */
export function t(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** The words of a number of things: keys KEY.one and KEY.many. */
export function counted(key, number) {
  return t(`${key}.${number === 1 ? "one" : "many"}`, { n: number.toLocaleString("en-US") });
}
