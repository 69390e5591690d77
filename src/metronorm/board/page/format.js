// Numbers for people: four significant digits, one unit, the same everywhere. Where numbers beside
// each other would look alike, `digits` asks for more.

/** A number from JSON: NaN and infinities are strings there. */
export function number(value) {
  if (typeof value === "number") return value;
  return { nan: NaN, inf: Infinity, "-inf": -Infinity }[value] ?? null; // null: no number
}

export function value(x, digits = 4) {
  if (x === null || x === undefined) return "–";
  if (typeof x === "boolean" || typeof x === "object") return JSON.stringify(x);
  if (typeof x === "string") return { nan: "NaN", inf: "∞", "-inf": "−∞" }[x] ?? x;
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e6) return whole(x);
  if (size >= 1e15 || size < 1e-3) return minus(trim(x.toExponential(digits - 1)));
  if (size >= 1e6) return si(x, digits);
  if (size >= 10 ** digits) return whole(Math.round(x));
  return minus(String(Number(x.toPrecision(digits))));
}

/** The same for a column of numbers: always four digits, so that they stand below each other. */
export function fourDigits(name, x) {
  const text = withUnit(name, x);
  return /^\u2212?\d+\.?\d*$/.test(text) && !Number.isInteger(x) && Math.abs(x) < 1e4 ? minus(x.toPrecision(4)) : text;
}

// not by toLocaleString, whose first call takes as long as a chart
export const whole = (x) => minus(String(Math.round(x)).replace(/\B(?=(\d{3})+$)/g, ","));
const minus = (text) => text.replace("-", "−").replace("e−", "e-");
const trim = (text) => text.replace(/\.?0+e/, "e").replace("e+", "e");

/** 12,400,000 as 12.4M. */
export function si(x, digits = 4) {
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(x) >= size) return minus(`${Number((x / size).toPrecision(digits))}${unit}`);
  }
  return minus(String(Number(x.toPrecision(digits))));
}

export function bytes(x, digits = 3) {
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (Math.abs(x) >= size) return `${Number((x / size).toPrecision(Math.max(digits, 3)))} ${unit}`;
  }
  return `${Math.round(x)} B`;
}

/** Nanoseconds in the best unit. */
export function duration(ns, digits = 3) {
  if (ns === null || !Number.isFinite(ns)) return value(ns);
  if (ns === 0) return "0 s";
  if (Math.abs(ns) >= 60e9) return seconds(ns / 1e9);
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
    if (Math.abs(ns) >= size) return `${Number((ns / size).toPrecision(digits))} ${unit}`;
  }
  return `${Math.round(ns)} ns`;
}

/** Seconds as "45 s", "12 min 5 s", "3 h 20 min", "2 d 4 h". */
export function seconds(s) {
  if (s < 60) return `${Number(s.toPrecision(3))} s`;
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.round(s);
  const found = [];
  for (const [unit, size] of parts) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count || found.length) found.push([count, unit]);
  }
  return found.slice(0, 2).filter(([count], i) => i === 0 || count).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** A moment, ms since 1970, in the reader's time zone: "11-30 14:03:22". */
export function moment(ms, step = 1000) {
  const date = new Date(ms);
  const two = (x) => String(x).padStart(2, "0");
  const day = `${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (step >= 86400e3) return day;
  if (step >= 60e3) return `${day} ${clock}`;
  return `${day} ${clock}:${two(date.getSeconds())}${step < 1000 ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : ""}`;
}

export function percent(share, digits = 3) {
  const x = Number((100 * share).toPrecision(digits));
  return Math.abs(x) < 1000 ? minus(`${x}%`) : `${whole(x)}%`;
}

/** A difference in percent with its sign: "+1.2%". */
export function change(to, from) {
  if (!Number.isFinite(to) || !Number.isFinite(from) || from === 0) return "";
  const share = (to - from) / Math.abs(from);
  if (share !== 0 && Math.abs(share) < 5e-6) return "≈0%"; // such as rounding
  return `${share >= 0 ? "+" : ""}${percent(share)}`;
}

/** A value of a column whose name ends in its unit; `rate`: it is the growth of that per second. */
export function withUnit(name, x, rate = false, digits = undefined) {
  if (!Number.isFinite(x)) return value(x);
  if (rate && name.endsWith("_ns")) return percent(x / 1e9, digits); // of one processor
  if (rate && name.endsWith("_joules")) return `${value(x, digits)} W`;
  if (rate) return `${withUnit(name, x, false, digits)}/s`;
  if (name.endsWith("_bytes")) return bytes(x, digits);
  if (name.endsWith("_ns")) return duration(x, digits);
  if (name.endsWith("_share") || name.endsWith("_utilization")) return percent(x, digits);
  if (name.endsWith("_watts")) return `${value(x, digits)} W`;
  if (name.endsWith("_celsius")) return `${value(x, digits)} °C`;
  if (name.endsWith("_joules")) return `${value(x, digits)} J`;
  return value(x, digits);
}

/** Numbers of one axis: with as few digits as tell them apart. `one(x, digits)` formats a number. */
export function apart(numbers, one) {
  for (const digits of [undefined, 4, 5, 6, 7, 8, 9, 10]) {
    const words = numbers.map((x) => one(x, digits));
    if (new Set(words).size === words.length) return words;
  }
  return numbers.map((x) => one(x));
}

/** The part of each name that differs: the common beginning, up to a whole word, is left out. */
export function distinct(names) {
  if (names.length < 2) return names;
  let start = 0;
  while (names.every((name) => name.length > start + 1 && name[start] === names[0][start])) start += 1;
  while (start > 0 && /[A-Za-z0-9]/.test(names[0][start - 1])) start -= 1;
  return names.map((name) => (start > 3 ? `…${name.slice(start)}` : name));
}
