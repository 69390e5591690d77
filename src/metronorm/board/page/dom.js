// Elements from data. Strings become text nodes, never markup: names in a run come from anybody.

/** Make an element: h("button", { class: "quiet", on: { click } }, "text", otherElement). */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "style") {
      for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    } else if (name === "value" || name === "checked" || name === "disabled") {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : visible(String(value)));
    }
  }
  return addTo(element, children);
}

const CONTROLS = "a[href], button, input, select, summary, [tabindex='0']";

/** Replace the children of an element. A focus inside stays at the control in the same place. */
export function fill(element, ...children) {
  const focused = document.activeElement;
  const isInside = focused !== element && element.contains(focused);
  const place = isInside ? [...element.querySelectorAll(CONTROLS)].indexOf(focused) : -1;
  element.replaceChildren();
  addTo(element, children);
  const now = place < 0 ? null : element.querySelectorAll(CONTROLS)[place];
  if (now?.tagName === focused.tagName) now.focus({ preventScroll: true });
  return element;
}

function addTo(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : visible(String(child)));
  }
  return element;
}

/** Text with its invisible control signs, and those that turn the direction, as escapes. */
export function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A long name that a line may break after its dots and underscores. */
export const breakable = (name) => name.split(/(?<=[._/])/).flatMap((part) => [h("wbr"), part]).slice(1);

const PATHS = {
  star: "M8 1.8l1.9 4 4.3.6-3.1 3 .8 4.3L8 11.6l-3.9 2.1.8-4.3-3.1-3 4.3-.6z",
  pin: "M6 2h4l-.5 4.5 2.5 2.5H4l2.5-2.5zM8 9v5",
  eye: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8zM8 6a2 2 0 110 4 2 2 0 010-4z",
  note: "M3 2.5h10v8l-3 3H3zM10 13.5v-3h3M5.5 6h5M5.5 8.5h3",
  wide: "M9.5 2.5h4v4M6.5 13.5h-4v-4M13.5 2.5l-4.5 4.5M2.5 13.5L7 9",
  table: "M2 3h12v10H2zM2 6.5h12M2 10h12M6.5 3v10",
  search: "M7 2.5a4.5 4.5 0 110 9 4.5 4.5 0 010-9zM10.5 10.5L14 14",
  menu: "M2 4h12M2 8h12M2 12h12",
  close: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  sun: "M8 5a3 3 0 110 6 3 3 0 010-6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  moon: "M13.5 9.5A6 6 0 016.5 2.5a6 6 0 107 7z",
  minus: "M3 8h10",
  plus: "M3 8h10M8 3v10",
  reset: "M3 8a5 5 0 105-5c-2 0-3.5 1-4.5 2.5M3 2.5v3.2h3.2",
  follow: "M2 8h9M8 4.5L11.5 8 8 11.5M14 3v10",
  columns: "M2.5 3h11v10h-11zM6 3v10M10 3v10",
};

/** A small drawing, hidden from screen readers: the button around it has the words. */
export function icon(name) {
  drawn[name] ??= draw(name);
  return drawn[name].cloneNode(true); // (a table has thousands)
}

const drawn = {};

function draw(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of [["viewBox", "0 0 16 16"], ["class", "icon"], ["aria-hidden", "true"]]) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Say something to a screen reader; at most twice a second, the newest words win. */
export function announce(text) {
  waiting = text;
  timer ??= setTimeout(() => {
    timer = null;
    document.getElementById("live").textContent = waiting;
  }, 500);
}
let waiting = "";
let timer = null;
