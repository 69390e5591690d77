// The routes of the server. JSON as objects; binary answers as typed arrays over one buffer.

import { t } from "./words.js";

/** An answer that is an error: `message` says what must hold, `got` and `fix` what to do. */
export class ApiError extends Error {
  constructor(status, { error, got, fix } = {}) {
    super(error ?? t("error.answer", { status }));
    this.status = status;
    this.got = got;
    this.fix = fix;
  }
}

let onLogin = () => {};

/** Who is called when the server asks for the token. */
export function whenLoginNeeded(listener) {
  onLogin = listener;
}

async function ask(path, options = {}) {
  let answer;
  const asked = globalThis.early?.answers.get(path); // by early.js
  globalThis.early?.answers.delete(path);
  try {
    answer = await (asked ?? fetch(path, { credentials: "same-origin", ...options }));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { error: t("error.gone"), fix: t("error.gone.fix") });
  }
  if (answer.ok || answer.status === 304) return answer;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) onLogin();
  throw new ApiError(answer.status, typeof told.error === "string" ? told : {});
}

/** The query of an address; a list becomes a repeated key, undefined is left out. */
export function query(values) {
  const found = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) {
    if (value === undefined || value === null || value === "") continue;
    for (const each of Array.isArray(value) ? value : [value]) found.append(key, each);
  }
  const text = found.toString();
  return text ? `?${text}` : "";
}

/** The address of a route with a query. */
export const addressOf = (path, values) => `api/${path}${query(values)}`;

export async function getJson(path, values = {}, signal = undefined) {
  return (await ask(addressOf(path, values), { signal })).json();
}

export async function send(method, path, body) {
  return ask(`api/${path}`, {
    method,
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
}

const ARRAYS = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array, u1: Uint8Array };

/** A binary answer: `{ meta, columns: [{ name, kind, data, ... }] }`. */
export async function getColumns(path, values = {}, signal = undefined) {
  const answer = await ask(addressOf(path, values), { signal });
  return readColumns(await answer.arrayBuffer());
}

/** Several of them, each behind 8 bytes with its length. */
export async function getSeveral(path, values) {
  const buffer = await (await ask(addressOf(path, values))).arrayBuffer();
  const lengths = new DataView(buffer);
  const found = [];
  for (let at = 0; at < buffer.byteLength; at += 8 + lengths.getUint32(at, true)) found.push(readColumns(buffer, at + 8));
  return found;
}

/** Four bytes of length, a JSON header, then the columns, each from a multiple of 8 on. */
export function readColumns(buffer, begin = 0) {
  const length = new DataView(buffer).getUint32(begin, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, begin + 4, length)));
  let at = begin + Math.ceil((4 + length) / 8) * 8;
  const columns = header.columns.map((column) => {
    const data = new ARRAYS[column.type](buffer, at, column.length);
    at = Math.ceil((at + data.byteLength) / 8) * 8;
    return { ...column, data };
  });
  return { meta: header.meta ?? {}, columns };
}

/** The path of a run's route. */
export const ofRun = (id, route = "") => `runs/${encodeURIComponent(id)}${route && `/${route}`}`;
