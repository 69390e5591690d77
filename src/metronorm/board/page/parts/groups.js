// Runs grouped by an option of their config.

import { getJson } from "../api.js";
import * as format from "../format.js";

/** Map(label -> ids) by the value of one option; null without one. */
export async function groupsOf(ids, key) {
  if (!key) return null;
  const column = `config:${key}`;
  const { rows } = await getJson("table", { columns: [column], runs: ids });
  return grouping(ids, (id) => rows[id]?.[column]);
}

/** The same with values that are known already. */
export function grouping(ids, valueOf) {
  const found = new Map();
  for (const id of ids) {
    const value = valueOf(id);
    const label = value === undefined || value === null ? "–" : format.value(value);
    found.set(label, [...(found.get(label) ?? []), id]);
  }
  return found;
}

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
