// One thing that is sampled of the machine.

import { ChartCard } from "../charts/card.js";
import * as format from "../format.js";
import { t } from "../words.js";
import { loadMetric } from "./metric_lines.js";

export function resourceCard(id, name, span, settings) {
  const card = new ChartCard({
    title: name.endsWith("_ns") ? t("resources.share", { name }) : name, // as a rate it is a share
    span,
    settings,
    formatY: (value, digits) => format.withUnit(name, value, card.lines[0]?.rate, digits),
    inBytes: name.endsWith("_bytes"),
    load: (request, signal) => loadMetric([id], name, request, signal, { route: "resources", settings }),
  });
  return card;
}
