// Names of metrics in sections by their prefix, the losses first.

const EVALUATED = ["validation_", "test_", "val_", "eval_"];
const LEAST = 3; // names that share a first word make a section of their own

/** [[prefix, names]]: names without a prefix come first. */
export function sectionsOf(names) {
  const words = new Map();
  for (const name of names) {
    const word = firstWord(name);
    if (word) words.set(word, (words.get(word) ?? 0) + 1);
  }
  const found = new Map([["", []]]);
  for (const name of names) {
    const word = firstWord(name);
    const many = words.get(word) ?? 0;
    const prefix = EVALUATED.includes(word) || (word.endsWith("/") && many > 1) || many >= LEAST ? word : "";
    if (!found.has(prefix)) found.set(prefix, []);
    found.get(prefix).push(name);
  }
  return [...found].filter(([, own]) => own.length).map(([prefix, own]) => [prefix, own.sort(lossFirst)]);
}

function firstWord(name) {
  const slash = name.indexOf("/");
  if (slash > 0) return name.slice(0, slash + 1);
  return name.match(/^[^_.]+[_.]/)?.[0] ?? "";
}

const rank = (name) => (name === "loss" ? 0 : name.endsWith("loss") ? 1 : 2);
// otherwise in the order in which they were logged
const lossFirst = (a, b) => rank(a) - rank(b);
