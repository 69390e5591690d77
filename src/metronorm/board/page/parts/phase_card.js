// Where the time of a tick goes: its phases on top of each other.

import { getColumns, ofRun } from "../api.js";
import { ChartCard } from "../charts/card.js";
import { Field } from "../charts/field.js";
import { stacked } from "../charts/stacked.js";
import { phaseColors } from "../colors.js";
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
      const phases = columns.filter(({ kind }) => kind === "y");
      const colors = phaseColors(phases.map(({ name }) => name));
      const lines = phases.map(({ name, data }, i) => ({ id: name, label: name, color: colors[i], x, y: data }));
      fill(legend, lines.map(({ label, color }) => h("span", { style: { "--run": color } }, h("i", {}), label)));
      return { lines, extent: meta.extent, step: meta.width };
    },
  });
}
