// Resources: the machine while the run was on it. What counts up is shown as its rate.

import { ChartCard } from "../charts/card.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { empty } from "../parts/messages.js";
import { loadMetric } from "../parts/metric_lines.js";
import { runView } from "../parts/run_view.js";
import { SCALES, choice, select, smoothing, zoomButtons } from "../parts/toolbar.js";
import { axisOf, state } from "../state.js";
import { t } from "../words.js";

const settings = () => ({ x: axisOf("resources"), y: state.y ?? "linear", smooth: Number(state.smooth ?? 0) });

export const open = (root) =>
  runView(root, ({ id, info, bar, place, span, grid }) => {
    const names = info.resources.map((each) => each.name ?? each);
    if (!names.length) {
      fill(place, empty(t("resources.none"), t("resources.none.why")));
      return {};
    }
    fill(bar, select("x", t("axis.x"), ["time", "elapsed"], "time", (axis) => t(`x.${axis}`)), choice("y", t("axis.y"), SCALES, "linear"), smoothing(), zoomButtons(span));
    const cards = names.map((name) =>
      grid.add(
        new ChartCard({
          title: name,
          span,
          settings,
          formatY: (value) => format.withUnit(name, value),
          load: (request, signal) => loadMetric([id], name, request, signal, { route: "resources", settings }),
        }),
      ),
    );
    fill(place, h("div", { class: "cards" }, cards));
    return { keys: ["x"] };
  });
