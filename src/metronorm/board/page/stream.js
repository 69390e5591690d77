// What happens now: one stream of server-sent events for all tabs of the browser, since a browser
// allows few connections. One tab holds the lock and the stream, and passes on what it hears.

import { ApiError, getJson, query } from "./api.js";

const POLL_MS = 5000; // while no stream can be had

/**
 * Call `listener(name, data)` for every event: "runs" of changes, "reset" if the list must be asked
 * for again, "link" with "live" or "lost". `since`: the cursor of the list that is known.
 */
export function listen(since, listener) {
  const channel = "BroadcastChannel" in window ? new BroadcastChannel(`metronorm ${location.pathname}`) : null;
  if (channel) channel.onmessage = ({ data }) => listener(data.name, data.value);
  const pass = (name, value) => {
    listener(name, value);
    channel?.postMessage({ name, value });
  };
  if (channel && navigator.locks) {
    // another tab that closes releases the lock, and the next one takes over
    navigator.locks.request(`metronorm stream ${location.pathname}`, () => hold(since, pass));
    if (channel) listener("link", "live");
  } else {
    hold(since, listener);
  }
}

function hold(since, pass) {
  let polling = null;
  let source = null;
  function open() {
    source = new EventSource(`api/stream${query({ since })}`);
    source.onopen = () => {
      clearInterval(polling);
      polling = null;
      pass("link", "live");
    };
    source.addEventListener("runs", (event) => pass("runs", JSON.parse(event.data).runs));
    source.addEventListener("reset", () => pass("reset", null));
    source.onerror = () => {
      pass("link", "lost");
      polling ??= setInterval(poll, POLL_MS);
    };
  }

  async function poll() {
    try {
      const { runs } = await getJson("runs");
      pass("runs", runs);
      // an answer that was an error, as of a proxy or before a login, has ended the stream for good
      if (source.readyState === EventSource.CLOSED) open();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    }
  }
  open();
  return new Promise(() => {}); // until the tab is closed
}
