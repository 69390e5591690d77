// Where the time of a tick goes: its phases on top of each other.

import { getColumns, ofRun } from "../api.js";
import { ChartCard } from "../charts/card.js";
import { Field } from "../charts/field.js";
import { stacked } from "../charts/stacked.js";
import { phaseColor } from "../colors.js";
import { fill, h } from "../dom.js";
import * as format from "../format.js";
import { t } from "../words.js";

const settings = () => ({ x: "tick", y: "linear" });

export function phaseCard(id, span) {
  const legend = h("div", { class: "legend" });
  return new ChartCard({
    title: t("ticks.phases"),
    span,
    settings,
    formatY: format.duration,
    legend,
    makePlot: (host, handlers) => new Field(host, handlers, stacked),
    async load({ from, to, width }, signal) {
      const { meta, columns } = await getColumns(ofRun(id, "phases"), { from, to, width }, signal);
      const x = columns.find(({ kind }) => kind === "x").data;
      const lines = columns
        .filter(({ kind }) => kind === "y")
        .map(({ name, data }, i) => ({ id: name, label: name, color: phaseColor(name, i), x, y: data }));
      fill(legend, lines.map(({ label, color }) => h("span", { style: { "--run": color } }, h("i", {}), label)));
      return { lines, extent: meta.extent, step: meta.width };
    },
  });
}
