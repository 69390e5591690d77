// How often charts are drawn anew while runs are written. The page often stands on the machine that
// trains them: the more a drawing costs there, the longer is the rest after it.

const REST = 4; // times as long as the drawing
const MOST_MS = 3000;
const ANSWER_MS = 10_000; // a server that does not answer is asked again then

const rest = (ms) => new Promise((over) => setTimeout(over, ms));

/**
 * A function to be called at every change: it does `work`, but begins it at most once in `least` ms.
 * Its `close()` ends that.
 */
export function paced(work, least) {
  let timer = null;
  let isDue = false;
  let isOpen = true;
  let next = performance.now() + least;

  async function begin() {
    isDue = false;
    const begun = performance.now();
    try {
      await Promise.race([work(), rest(ANSWER_MS)]);
      await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    } finally {
      const took = performance.now() - begun;
      next = begun + Math.max(least, Math.min((1 + REST) * took, MOST_MS));
      timer = null;
      if (isDue) ask();
    }
  }

  function ask() {
    isDue = true;
    if (isOpen) timer ??= setTimeout(begin, Math.max(0, next - performance.now()));
  }

  ask.close = () => {
    isOpen = false;
    clearTimeout(timer);
  };
  return ask;
}
