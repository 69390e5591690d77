export function lines({ meta, columns }) {
  return meta.tracks.map((track, number) => {
    const own = Object.fromEntries(columns.filter((c) => c.track === number).map((c) => [c.kind, c.data]));
    const rails = { nan: [], inf: [], "-inf": [], nonpositive: [] };
    const at = (c) => meta.begin + (c / meta.width) * (meta.end - meta.begin);
    if (own.bad) own.bad.forEach((c, i) => {
      const k = own.bad_kind[i];
      if (k & 1) rails.nan.push(at(c));
      if (k & 2) rails.inf.push(at(c));
      if (k & 4) rails["-inf"].push(at(c));
      if (k & 8) rails.nonpositive.push(at(c));
    });
    const band = own.band_column ? { x: Float64Array.from(own.band_column, at), min: own.band_min, max: own.band_max } : null;
    const counts = { nan: track.nan, inf: track.pinf, "-inf": track.ninf, nonpositive: track.below, first_nan: track.first_nan, rows: track.rows };
    return { name: track.name, ghost: track.ghost, x: own.x, y: own.y, band, rails, counts };
  });
}
