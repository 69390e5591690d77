// Runs before the first paint, so that a chosen theme does not flash.
(() => {
  try {
    const theme = localStorage.getItem("metronorm.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    const language = localStorage.getItem("metronorm.language");
    document.documentElement.lang = language ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  } catch {
    // storage may be blocked: the defaults hold
  }
})();
