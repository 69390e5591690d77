// What a hand does over a plot. A plain drag chooses a stretch; the plots do that themselves.
//
// | gesture | does |
// | --- | --- |
// | shift or middle button, and drag | pan |
// | ctrl or cmd, and wheel | zoom at the pointer (a plain wheel scrolls the page) |
// | shift and wheel | pan |
// | double click | show all |
// | one finger, to the side | pan, with the cursor below the finger (up and down scrolls the page) |
// | two fingers | zoom between them, and pan |

/**
 * box(): where the plotted area is. handlers: pan(share), zoomBy(factor, share of the width),
 * whole(), point(share of the width, of the height).
 */
export function listenToGestures(host, box, handlers) {
  let grip = null;
  const inside = (event) => {
    const { left, right, top, bottom } = box();
    return event.clientX >= left && event.clientX <= right && event.clientY >= top && event.clientY <= bottom;
  };
  const down = (event) => {
    if (!(event.shiftKey || event.button === 1) || !inside(event)) return;
    event.preventDefault();
    event.stopPropagation();
    grip = event.clientX;
    window.addEventListener("mousemove", move);
    window.addEventListener("mouseup", up);
  };
  const move = (event) => {
    handlers.pan((grip - event.clientX) / box().width);
    grip = event.clientX;
  };
  const up = () => {
    window.removeEventListener("mousemove", move);
    window.removeEventListener("mouseup", up);
  };
  const wheel = (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return;
    event.preventDefault();
    const { left, width } = box();
    if (event.shiftKey) handlers.pan((event.deltaY || event.deltaX) / width);
    else handlers.zoomBy(Math.exp(event.deltaY / 300), (event.clientX - left) / width);
  };
  const twice = () => handlers.whole();
  const fingers = new Map(); // where each was at last
  const touched = (event) => {
    if (event.pointerType === "touch" && inside(event)) fingers.set(event.pointerId, event);
  };
  const slid = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    fingers.set(event.pointerId, event);
    const { left, top, width, height } = box();
    const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
    const other = [...fingers.values()].find((finger) => finger !== event);
    const share = fingers.size === 1 ? 1 : 0.5; // of two fingers, each moves the half
    if (other) handlers.zoomBy(distance(before, other) / distance(event, other), (x + (other.clientX - left) / width) / 2);
    handlers.pan((share * (before.clientX - event.clientX)) / width);
    if (!other) handlers.point(x, y);
  };
  const lifted = (event) => fingers.delete(event.pointerId);
  const touches = { pointerdown: touched, pointermove: slid, pointerup: lifted, pointercancel: lifted };
  for (const [name, listener] of Object.entries(touches)) host.addEventListener(name, listener);
  host.addEventListener("mousedown", down, true);
  host.addEventListener("wheel", wheel, { passive: false });
  host.addEventListener("dblclick", twice, true);
  return () => {
    up();
    host.removeEventListener("mousedown", down, true);
    host.removeEventListener("wheel", wheel);
    host.removeEventListener("dblclick", twice, true);
    for (const [name, listener] of Object.entries(touches)) host.removeEventListener(name, listener);
  };
}

/** Between two fingers, in CSS pixels; at least one. */
const distance = (a, b) => Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));
