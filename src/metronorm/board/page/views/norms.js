// Norms and gradients: layers × ticks, one number of every layer at a time.

import { getColumns, ofRun } from "../api.js";
import { ChartCard } from "../charts/card.js";
import { namedHeatmap } from "../charts/heatmap.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { heatCard, rowAt } from "../parts/heat_card.js";
import { empty } from "../parts/messages.js";
import { loadMetric, settings } from "../parts/metric_lines.js";
import { runView } from "../parts/run_view.js";
import { SCALES, choice, zoomButtons } from "../parts/toolbar.js";
import { state } from "../state.js";
import { t } from "../words.js";

export const open = (root) =>
  runView(root, async ({ id, info, bar, place, span, grid }) => {
    const { meta } = await getColumns(ofRun(id, "norms"), { width: 10 });
    const stats = meta.stats ?? [];
    const gradients = info.metrics.filter((name) => /grad/.test(name) && !/^norm\./.test(name));
    if (!stats.length && !gradients.length) {
      fill(place, empty(t("norms.none"), t("norms.none.why"), "norms = observe(model)\nwith norms.at(tick):\n    loss = model(batch)\nclock.log(**norms.numbers())"));
      return {};
    }
    fill(bar, choice("y", t("axis.y"), SCALES, "linear"), zoomButtons(span));
    const shown = state.stat ? stats.filter((stat) => stat === state.stat) : stats;
    fill(
      place,
      h(
        "div",
        { class: "cards" },
        gradients.map((name) => grid.add(new ChartCard({ title: name, span, settings, load: (request, signal) => loadMetric([id], name, request, signal, { ghosts: true }) }))),
        shown.map((stat) => grid.add(layers(id, stat, span))),
      ),
    );
    return { keys: ["stat"] };
  });

function layers(id, stat, span) {
  const card = heatCard({
    id,
    route: "norms",
    values: { stat },
    title: t("norms.of", { stat }),
    words: stat,
    span,
    paint: namedHeatmap,
    rowsOf({ x, value = new Float64Array() }, meta) {
      const names = format.distinct(meta.layers);
      // the first layer stands on top, as in the model's code
      return meta.layers.map((layer, i) => ({ id: layer, label: layer, short: names[i], x, y: held(rowAt(value, x, i)) })).reverse();
    },
  });
  card.element.classList.add("tall");
  return card;
}

/** Layers are observed at every so many ticks: until the next time, the last value stands. */
function held(values) {
  const found = Float64Array.from(values);
  const end = found.findLastIndex(Number.isFinite);
  for (let i = 1; i < end; i += 1) if (!Number.isFinite(found[i])) found[i] = found[i - 1];
  return found;
}
