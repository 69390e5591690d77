// The bar at the top: the views, whether the page is live, language and theme.

import { fill, h, icon } from "../dom.js";
import { isDark } from "../colors.js";
import { recolor } from "../runs.js";
import { VIEWS, linkTo, prefer, preferred, state } from "../state.js";
import { language, t } from "../words.js";
import { showHelp } from "./help.js";

export function openHeader(root) {
  const links = new Map(VIEWS.map((view) => [view, h("a", { href: "#" }, t(`view.${view}`))]));
  // where there is no room for links side by side
  const choose = h(
    "select",
    { class: "field only-small", "aria-label": t("views"), on: { change: () => { location.hash = linkTo(choose.value); } } },
    VIEWS.map((view) => h("option", { value: view }, t(`view.${view}`))),
  );
  const live = h("span", { class: "link", role: "status" });
  const help = h("button", { type: "button", class: "quiet", "aria-label": t("help"), title: t("help"), on: { click: showHelp } }, "?");
  const theme = h("button", { type: "button", class: "quiet", on: { click: turn } });
  const other = language === "zh" ? "en" : "zh";
  const speak = h(
    "button",
    {
      type: "button",
      class: "quiet",
      lang: other === "zh" ? "zh-Hans" : "en",
      on: {
        click() {
          prefer("language", other);
          location.reload();
        },
      },
    },
    other === "zh" ? "中文" : "English",
  );

  let chosen = preferred("theme") !== null;
  function turn() {
    chosen = true;
    show(isDark() ? "light" : "dark");
    prefer("theme", document.documentElement.dataset.theme);
  }

  function show(which) {
    document.documentElement.dataset.theme = which;
    draw();
    recolor();
  }

  function draw() {
    const words = t(isDark() ? "theme.light" : "theme.dark");
    fill(theme, icon(isDark() ? "sun" : "moon"));
    theme.setAttribute("aria-label", words);
    theme.title = words;
    for (const [view, anchor] of links) {
      anchor.href = linkTo(view);
      if (view === state.view) anchor.setAttribute("aria-current", "page");
      else anchor.removeAttribute("aria-current");
    }
    choose.value = state.view;
    // in a frame, where the layout is made anyway
    requestAnimationFrame(() => links.get(state.view).scrollIntoView({ block: "nearest", inline: "nearest" }));
  }

  const menu = h(
    "button",
    {
      type: "button",
      class: "quiet only-small",
      "aria-label": t("rail.open"),
      "aria-expanded": "false",
      on: {
        click() {
          const open = document.body.classList.toggle("rail-open");
          menu.setAttribute("aria-expanded", String(open));
        },
      },
    },
    icon("menu"),
  );
  fill(
    root,
    menu,
    h("a", { class: "brand", href: "#runs" }, "Metronorm"),
    h("nav", { "aria-label": t("views") }, choose, ...links.values()),
    h("div", { class: "corner" }, live, help, speak, theme),
  );
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => {
    if (!chosen) show(matches ? "dark" : "light");
  });
  draw();
  return {
    update: draw,
    link(how) {
      live.dataset.link = how;
      live.textContent = t(`link.${how}`);
    },
  };
}
