// Runs before the first paint, so that a chosen theme does not flash, and asks for what the view in
// the address begins with, so that it comes while the modules are loaded.
(() => {
  let language = navigator.language;
  try {
    const theme = localStorage.getItem("metronorm.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    language = localStorage.getItem("metronorm.language") ?? language;
  } catch {
    // storage may be blocked: the defaults hold
  }
  document.documentElement.lang = language.startsWith("zh") ? "zh" : "en";

  const [view, query] = location.hash.slice(1).split("?", 2);
  if (view.startsWith("token=")) return; // nothing is answered before the login
  const wanted = new URLSearchParams(query);
  const run = wanted.get("run");
  const shown = new URLSearchParams(wanted.getAll("shown").map((id) => ["runs", id]));
  const paths = ["api/runs"];
  if (run) paths.push(`api/runs/${encodeURIComponent(run)}`);
  else if (view === "metrics" && shown.size) paths.push(`api/columns?${shown}`);
  else if (view === "runs" || !view) paths.push("api/columns");
  paths.push(new URL(`words.${document.documentElement.lang}.json`, document.currentScript.src).href);
  // whoever asks for one of these first takes it from here
  globalThis.early = new Map(paths.map((path) => [path, fetch(path)]));
  for (const asked of globalThis.early.values()) asked.catch(() => {});
})();
