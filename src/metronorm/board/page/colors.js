// Colours of runs in both themes: every hue has 3:1 against its ground. From the eleventh run on a
// dash is the second code.

const LIGHT = ["#2f66d0", "#c2570c", "#2b8a3e", "#c92a4b", "#8a4fd3", "#0c7f91", "#8a5a2b", "#b83280", "#747a12", "#5c6b7a"];
const DARK = ["#6fa1ff", "#ff9a4d", "#5ccf75", "#ff7a8a", "#b794f6", "#4cc9dc", "#d0a177", "#f27fc6", "#c3c74e", "#9fb0c0"];
export const HUES = LIGHT; // as they are written in the notes of a run
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

export const isDark = () => document.documentElement.dataset.theme === "dark";

/** The colour of a run: the server gives an index, or the colour that a person chose. */
export function colorOf(index) {
  const hues = isDark() ? DARK : LIGHT;
  if (typeof index !== "string") return hues[(index ?? 0) % hues.length];
  return hues[LIGHT.indexOf(index)] ?? readable(index);
}

const LEAST_CONTRAST = 3;
const readables = new Map();

/** A colour, as much darker or lighter as it takes to be seen on the paper of the theme. */
function readable(color) {
  const paper = themed("paper");
  const key = color + paper;
  if (!readables.has(key)) {
    let found = color;
    for (let share = 0.1; contrast(found, paper) < LEAST_CONTRAST && share < 1.05; share += 0.1) {
      found = mixed(color, isDark() ? "#ffffff" : "#000000", share);
    }
    readables.set(key, found);
  }
  return readables.get(key);
}

const channels = (color) => [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));

function mixed(color, other, share) {
  const [from, to] = [channels(color), channels(other)];
  return `#${from.map((each, i) => Math.round(each + share * (to[i] - each)).toString(16).padStart(2, "0")).join("")}`;
}

/** As WCAG 2 defines it, from 1 to 21. */
function contrast(a, b) {
  const [low, high] = [a, b].map(luminance).sort((one, two) => one - two);
  return (high + 0.05) / (low + 0.05);
}

function luminance(color) {
  const [r, g, b] = channels(color).map((each) => (each <= 10 ? each / 3294.6 : ((each / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function dashOf(index) {
  if (typeof index !== "number") return [];
  return DASHES[Math.floor(index / LIGHT.length) % DASHES.length];
}

/** A colour of the theme, by its name in theme.css. */
export function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** A colour with an opacity of 0 to 1. */
export function faded(color, opacity) {
  const wide = color.length === 4 ? [...color.slice(1)].map((sign) => sign + sign).join("") : color.slice(1);
  return `#${wide}${Math.round(255 * opacity).toString(16).padStart(2, "0")}`;
}

// The usual phases have fixed colours, so that they look the same in every run.
const PHASES = {
  data: 0, forward: 2, backward: 4, update: 1, communicate: 3, checkpoint: 6, evaluate: 5, unattributed: 9,
  sample: 7, observe: 8,
};

/** A colour for each phase of a run; two have the same only where there are more than colours. */
export function phaseColors(names) {
  const taken = new Set(names.map((name) => PHASES[name]));
  const free = LIGHT.map((_, hue) => hue).filter((hue) => !taken.has(hue));
  let others = 0;
  return names.map((name) => colorOf(PHASES[name] ?? (free.length ? free[others++ % free.length] : others++)));
}

// viridis by nine stops: light is much, in both themes
const STOPS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];

/** The colour of a share of 0 to 1, as [red, green, blue]. */
export function heat(share) {
  const place = Math.min(1, Math.max(0, share)) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(place));
  return STOPS[low].map((from, i) => Math.round(from + (place - low) * (STOPS[low + 1][i] - from)));
}
