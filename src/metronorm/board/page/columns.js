// Lines as uPlot draws them, from what `GET api/series` answers. The server cuts a line
// at the pixel edges of a view, in uPlot's own rounding: drawn there, it has the pixels of all
// points. When the view moves, every point is still within one pixel of its place.

// The four points of a pixel column stand a little right of its left edge: so they are in this
// column whether uPlot draws point by point (rounded) or column by column (cut off), and also
// where lines of other runs have points between them.
const SLOTS = ["first", "min", "max", "last"];
const STEP = 1 / 32;

const RAILS = [
  [1, "nan"],
  [2, "inf"],
  [4, "-inf"],
  [8, "nonpositive"],
];

/**
 * The lines of an answer `{ meta, columns: [{ kind, track, data }] }`, one for each track:
 * - x, y: the points, all of them finite; x ascends.
 * - gaps: [[from, to]] in x: the line is hidden there. For uPlot's hook `series.gaps`.
 * - typical: values of which none stands there because it is an extreme.
 * - band: null, or { x, min, max } of the values before they were smoothed.
 * - rate: whether y is the growth per second of what is recorded.
 * - rails: the x of what the axis cannot show, at most one per pixel.
 * - counts: of the same in the view; first_nan is the first x of the whole line that is NaN or
 *   infinite.
 */
export function lines({ meta, columns }) {
  const place = placeIn(meta);
  return meta.tracks.map((track, number) => {
    const own = {};
    for (const column of columns) if (column.track === number) own[column.kind] = column.data;
    return {
      name: track.name,
      ghost: track.ghost,
      rate: track.rate ?? false,
      ...(track.kind === "points" ? { x: own.x, y: own.y } : slots(track, own, place, meta.width)),
      gaps: Array.from(own.gap_from, (from, i) => [from, own.gap_to[i]]),
      typical: own.last ?? own.y,
      band: bandOf(track, own, place),
      rails: railsOf(own, place),
      counts: {
        nan: track.nan,
        inf: track.pinf,
        "-inf": track.ninf,
        nonpositive: track.below,
        first_nan: track.first_bad,
        rows: track.rows,
      },
    };
  });
}

/** x at a distance from the left edge of the plot, in device pixels; as uPlot's `posToVal`. */
function placeIn({ begin, end, width, left, ratio }) {
  const [cssWidth, cssLeft] = [Math.round(width / ratio), Math.round(left / ratio)];
  return (pixel) => begin + (end - begin) * (((pixel + Math.floor(left)) / ratio - cssLeft) / cssWidth);
}

function slots({ before, after }, own, place, width) {
  const { column } = own;
  // From four points per pixel on, uPlot draws column by column, as it would draw all data. Where
  // columns are empty, copies of the first point make up the number.
  const copies = column.length ? Math.max(0, SLOTS.length * (width - column.length) + 2) : 0;
  const count = before.length + copies + SLOTS.length * column.length + after.length;
  const [x, y] = [new Float64Array(count), new Float64Array(count)];
  let at = 0;
  const add = ([ownX, ownY]) => {
    x[at] = ownX;
    y[at] = ownY;
    at += 1;
  };
  before.forEach(add);
  for (let i = 0; i < copies; i += 1) add([place(column[0] + STEP), own.first[0]]);
  for (let i = 0; i < column.length; i += 1) {
    SLOTS.forEach((kind, slot) => add([place(column[i] + (slot + 1) * STEP), own[kind][i]]));
  }
  after.forEach(add);
  return { x, y };
}

function bandOf({ kind }, own, place) {
  if (kind === "points") return own.raw ? { x: own.x, min: own.raw, max: own.raw } : null;
  if (!own.band_min) return null;
  return { x: Float64Array.from(own.column, (pixel) => place(pixel + 0.5)), min: own.band_min, max: own.band_max };
}

function railsOf({ bad, bad_kind: kinds }, place) {
  const rails = {};
  for (const [bit, name] of RAILS) {
    rails[name] = [];
    bad.forEach((pixel, i) => kinds[i] & bit && rails[name].push(place(pixel)));
  }
  return rails;
}
