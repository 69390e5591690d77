// Runs grouped by a key of their config.

import * as format from "../format.js";

/** Map(label -> ids) by the value of one key; infos are those of the ids. */
export function groupsOf(ids, infos, key) {
  const byId = new Map(infos.map((info) => [info.id, info]));
  const found = new Map();
  for (const id of ids) {
    const value = flat(byId.get(id)?.config ?? {})[key];
    const label = value === undefined ? "–" : format.value(value);
    found.set(label, [...(found.get(label) ?? []), id]);
  }
  return found;
}

/** The keys of the configs that differ between these runs. */
groupsOf.keys = (infos) => {
  const seen = new Map();
  for (const info of infos) {
    for (const [key, value] of Object.entries(flat(info.config ?? {}))) {
      seen.set(key, (seen.get(key) ?? new Set()).add(JSON.stringify(value)));
    }
  }
  return [...seen].filter(([, values]) => values.size > 1).map(([key]) => key).sort();
};

/** Nested values by their whole names: {a: {b: 1}} becomes {"a.b": 1}. */
export function flat(values, before = "") {
  const found = {};
  for (const [name, value] of Object.entries(values)) {
    if (value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
      Object.assign(found, flat(value, `${before}${name}.`));
    } else {
      found[before + name] = value;
    }
  }
  return found;
}
