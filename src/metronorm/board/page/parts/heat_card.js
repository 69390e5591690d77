// A card with a heat map over the ticks of a run, and the legend of its colours.

import { getColumns, ofRun } from "../api.js";
import { ChartCard } from "../charts/card.js";
import { Field } from "../charts/field.js";
import { heatLegend, heatmap } from "../charts/heatmap.js";
import * as format from "../format.js";

const settings = () => ({ x: "tick", y: "linear" });

/**
 * id: of the run. route, values: what is asked for. title, words: of the card and of its legend.
 * rowsOf(columns by their kind, meta): the rows of the map. paint: a painter for `Field`.
 */
export function heatCard({ id, route, values = {}, title, words, span, rowsOf, formatY = format.value, paint = heatmap }) {
  const legend = heatLegend(words);
  return new ChartCard({
    title,
    span,
    settings,
    formatY,
    legend: legend.element,
    makePlot: (host, handlers) => new Field(host, handlers, paint),
    async load({ from, to, width }, signal) {
      const { meta, columns } = await getColumns(ofRun(id, route), { ...values, from, to, width }, signal);
      const found = Object.fromEntries(columns.map(({ kind, data }) => [kind, data]));
      const lines = rowsOf(found, meta);
      legend.show(lines, formatY);
      return { lines, extent: meta.extent, step: meta.width, edges: found.edges };
    },
  });
}

/** Row i of a table of numbers that lie row after row, each as long as x. */
export const rowAt = (values, x, i) => values.subarray(i * x.length, (i + 1) * x.length);
