// Resources: the machine while the run was on it. What counts up is shown as its rate.

import { fill, h } from "../dom.js";
import { eventMarks } from "../parts/event_marks.js";
import { empty } from "../parts/messages.js";
import { resourceCard } from "../parts/resource_card.js";
import { runView } from "../parts/run_view.js";
import { SCALES, choice, fitting, select, smoothing, zoomButtons } from "../parts/toolbar.js";
import { axisOf, state } from "../state.js";
import { t } from "../words.js";

const settings = () => ({ x: axisOf("resources"), y: state.y ?? "linear", smooth: Number(state.smooth ?? 0), fit: Boolean(state.fit) });

export const open = (root) =>
  runView(root, async ({ id, info, bar, place, span, grid }) => {
    const names = info.resources;
    if (!names.length) {
      fill(place, empty(t("resources.none"), t("resources.none.why")));
      return {};
    }
    fill(bar, select("x", t("axis.x"), ["time", "elapsed"], "time", (axis) => t(`x.${axis}`)), choice("y", t("axis.y"), SCALES, "linear"), fitting(), smoothing(), zoomButtons(span));
    const cards = names.map((name) => resourceCard(id, name, span, settings));
    fill(place, h("div", { class: "cards" }, cards.map((card) => grid.add(card))));
    const found = await eventMarks(id, settings().x).catch(() => null);
    for (const card of cards) if (found) card.events = found.marks;
    grid.redraw();
    return { keys: ["x"] };
  });
