// The toolbar over the charts: axes, smoothing, zoom. Everything that it sets is in the address.

import { h, icon } from "../dom.js";
import { go, state } from "../state.js";
import { t } from "../words.js";

export const AXES = ["tick", "tokens", "time", "elapsed", "training"];
export const SCALES = ["linear", "log", "asinh"];

/** Choose one of few words: a group of radio buttons. */
export function choice(key, words, values, otherwise, name = (value) => t(`${key}.${value}`)) {
  const now = state[key] ?? otherwise;
  return h(
    "div",
    { class: "choice", role: "radiogroup", "aria-label": words },
    values.map((value) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: `choose-${key}`,
          value,
          checked: value === now,
          on: { change: () => go({ [key]: value === otherwise ? undefined : value }, { replace: true }) },
        }),
        h("span", {}, name(value)),
      ),
    ),
  );
}

export function select(key, words, values, otherwise, name, { quiet = false } = {}) {
  return h(
    "label",
    { class: "select" },
    h("span", { class: quiet && "sr" }, words),
    h(
      "select",
      { on: { change: (event) => go({ [key]: event.target.value || undefined }, { replace: true }) } },
      values.map((value) => {
        const option = h("option", { value: value === otherwise ? "" : value }, name(value));
        option.selected = value === (state[key] ?? otherwise);
        return option;
      }),
    ),
  );
}

/** The button that fits y to all but the rarest values. */
export function fitting() {
  return h(
    "button",
    {
      type: "button",
      class: "quiet",
      title: t("fit"),
      "aria-label": t("fit"),
      "aria-pressed": String(Boolean(state.fit)),
      on: {
        click({ currentTarget: button }) {
          go({ fit: state.fit ? undefined : 1 }, { replace: true });
          button.setAttribute("aria-pressed", String(Boolean(state.fit)));
        },
      },
    },
    "99%",
  );
}

export function smoothing() {
  const told = h("output", {}, Number(state.smooth ?? 0).toFixed(2));
  let timer = null;
  return h(
    "label",
    { class: "slider" },
    h("span", {}, t("smooth")),
    h("input", {
      type: "range",
      min: 0,
      max: 0.99,
      step: 0.01,
      value: state.smooth ?? 0,
      on: {
        input(event) {
          told.textContent = Number(event.target.value).toFixed(2);
          clearTimeout(timer);
          timer = setTimeout(() => go({ smooth: Number(event.target.value) || undefined }, { replace: true }), 100);
        },
      },
    }),
    told,
  );
}

export function zoomButtons(span) {
  const button = (name, words, click) =>
    h("button", { type: "button", class: "quiet", title: words, "aria-label": words, on: { click } }, icon(name));
  const follow = button("follow", t("follow"), () => span.toggleFollow());
  const whole = button("reset", t("zoom.whole"), () => span.whole());
  const update = () => {
    follow.setAttribute("aria-pressed", String(span.follow));
    whole.disabled = span.chosen === null;
  };
  span.on(update);
  update();
  return h(
    "div",
    { class: "buttons" },
    button("minus", t("zoom.out"), () => span.zoom(2)),
    button("plus", t("zoom.in"), () => span.zoom(0.5)),
    whole,
    follow,
  );
}
