// What a hand does over a plot. A plain drag chooses a stretch; the plots do that themselves.
//
// | gesture | does |
// | --- | --- |
// | shift or middle button, and drag | pan |
// | ctrl or cmd, and wheel | zoom at the pointer (a plain wheel scrolls the page) |
// | shift and wheel | pan |
// | double click | show all |

/** box(): where the plotted area is; handlers: pan(share), zoomBy(factor, share of the width), whole(). */
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
  host.addEventListener("mousedown", down, true);
  host.addEventListener("wheel", wheel, { passive: false });
  host.addEventListener("dblclick", twice, true);
  return () => {
    up();
    host.removeEventListener("mousedown", down, true);
    host.removeEventListener("wheel", wheel);
    host.removeEventListener("dblclick", twice, true);
  };
}
