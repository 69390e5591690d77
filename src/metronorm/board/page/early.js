// Runs before the first paint, so that a chosen theme does not flash. Then it asks at once for what
// would be found out bit by bit: what the view in the address begins with, and the modules.
(() => {
  const root = document.documentElement;
  let language = navigator.language;
  let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  try {
    theme = localStorage.getItem("metronorm.theme") ?? theme;
    language = localStorage.getItem("metronorm.language") ?? language;
  } catch {
    // storage may be blocked: the defaults hold
  }
  root.dataset.theme = theme === "dark" ? "dark" : "light";
  root.lang = language.startsWith("zh") ? "zh" : "en";

  const besideThis = (name) => new URL(name, document.currentScript.src).href;
  const wanted = [besideThis(`words.${root.lang}.json`)];
  const [view, query] = location.hash.slice(1).split("?", 2);
  if (!view.startsWith("token=")) {
    // (before the login nothing is answered)
    const asked = new URLSearchParams(query);
    const run = asked.get("run");
    const shown = new URLSearchParams(asked.getAll("shown").map((id) => ["runs", id]));
    wanted.push("api/runs");
    if (run) wanted.push(`api/runs/${encodeURIComponent(run)}`);
    else if (view === "metrics" && shown.size) wanted.push(`api/columns?${shown}`);
    else if (view === "runs" || !view) wanted.push("api/columns");
  }
  // and with what its first chart asked for, the last time that this address was opened
  const visit = `${location.hash} ${innerWidth} ${devicePixelRatio}`;
  try {
    const first = JSON.parse(localStorage.getItem("metronorm.first"));
    if (first?.visit === visit) wanted.push(...first.addresses);
  } catch {
    // storage may be blocked
  }
  // whoever asks for one of these first takes it from here
  globalThis.early = { visit, answers: new Map(wanted.map((path) => [path, fetch(path)])) };
  for (const answer of globalThis.early.answers.values()) answer.catch(() => {});

  // all that a first view needs; other views bring the few modules of their own
  const modules = `
    api charts/axes charts/card charts/describing charts/gestures charts/grid charts/grouping
    charts/keys charts/marks charts/pace charts/plot charts/ranges charts/series charts/span charts/strip colors
    columns dom format parts/completion parts/groups parts/header parts/help parts/login
    parts/messages parts/metric_lines parts/notes_dialog parts/rail parts/table_dialog parts/toolbar
    runs state stream words
  `;
  const ofView = {
    metrics: `
      charts/field charts/stacked parts/event_marks parts/phase_card parts/resource_card
      parts/run_header parts/sections views/metrics
    `,
    runs: `
      parts/column_picker parts/run_table views/runs
    `,
  };
  for (const name of (modules + (ofView[view || "runs"] ?? "")).trim().split(/\s+/)) {
    const link = document.createElement("link");
    link.rel = "modulepreload";
    link.href = besideThis(`${name}.js`);
    document.head.append(link);
  }
})();
