// The beginning: words, login, the frame around the views, and the view that the address names.

import { ApiError, send, whenLoginNeeded } from "./api.js";
import { fill, h } from "./dom.js";
import { openHeader } from "./parts/header.js";
import { openRail } from "./parts/rail.js";
import { failure } from "./parts/messages.js";
import { askForToken, isAskingForToken } from "./parts/login.js";
import { cursor, heard, loadRuns, nameRuns, onRuns } from "./runs.js";
import { go, onState, state } from "./state.js";
import { listen } from "./stream.js";
import { loadWords, t } from "./words.js";

const main = document.getElementById("main");
const EARLY_MS = 1000; // after the first view is there
let view = null; // what is open: { name, update, close }
let wanted = 0;

const modules = {
  runs: () => import("./views/runs.js"),
  metrics: () => import("./views/metrics.js"),
  ticks: () => import("./views/ticks.js"),
  resources: () => import("./views/resources.js"),
  norms: () => import("./views/norms.js"),
  diagnosis: () => import("./views/diagnosis.js"),
  samples: () => import("./views/samples.js"),
  config: () => import("./views/config.js"),
  compare: () => import("./views/compare.js"),
  options: () => import("./views/options.js"),
};

async function show() {
  if (isAskingForToken()) return; // its form is there, and then the page begins anew
  const number = (wanted += 1);
  const name = state.view;
  const module = await modules[name]();
  if (number !== wanted) return;
  if (view) window.scrollTo(0, 0);
  view?.close?.();
  view = null;
  nameRuns();
  fill(main);
  main.className = `view view-${name}`;
  main.setAttribute("aria-label", t(`view.${name}`));
  document.title = `${t(`view.${name}`)} · Metronorm`;
  view = { name, ...module.open(main) };
}

async function login() {
  const fragment = location.hash.match(/^#token=([^&]+)/);
  if (!fragment) return;
  // the token leaves the address, and with it the browser's history, before anything else happens
  history.replaceState(null, "", `${location.pathname}${location.search}`);
  go({ view: "runs" }, { replace: true });
  await send("POST", "login", { token: decodeURIComponent(fragment[1]) });
}

async function begin() {
  // what needs no login comes while the list of runs is asked for
  modules[state.view]();
  const words = loadWords(document.documentElement.lang);
  const fragment = location.hash.startsWith("#token=");
  const runs = fragment ? null : loadRuns();
  runs?.catch(() => {});
  await words;
  document.getElementById("skip").textContent = t("skip");
  whenLoginNeeded(() => askForToken());
  try {
    await login();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    askForToken(error);
    return;
  }
  const header = openHeader(document.getElementById("top"));
  openRail(document.getElementById("rail"));
  onState(async (keys) => {
    header.update();
    if (keys.has("view")) await show();
    else {
      nameRuns();
      view?.update?.(keys);
    }
  });
  onRuns((ids) => {
    if (ids === null) nameRuns();
    view?.runs?.(ids);
  });
  try {
    await (runs ?? loadRuns());
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) askForToken();
    else fill(main, failure(error, begin));
    return;
  }
  await show();
  // what was not asked for by then is not wanted, and gets old
  setTimeout(() => globalThis.early?.answers.clear(), EARLY_MS);
  listen(cursor, (name, value) => {
    if (name === "runs") heard(value);
    else if (name === "reset") loadRuns().catch(() => {});
    else {
      header.link(value);
      if (value === "live" && isAskingForToken()) location.reload(); // another tab has logged in
    }
  });
}

// an address with a token that is opened in a page that is there changes no more than its fragment
window.addEventListener("hashchange", () => location.hash.startsWith("#token=") && location.reload());

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
begin().catch((error) => {
  fill(main, h("p", { class: "empty" }, String(error)));
  throw error;
});
