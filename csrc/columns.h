// Channels-first layouts: neighbouring rows are neighbours in memory, the elements of one row are not.
// A register holds one element of several rows. A tile stays in the first cache between two sweeps.
#pragma once

#include "rows.h"

namespace metronorm {
namespace {

constexpr int64_t kTileBytes = 32768;
// The length of a plain sum over channels; a longer sum is a sum of such sums.
constexpr int64_t kShortSum = 64;

// Rows per tile: one, two or four registers.
int64_t columns_tile(Type type, int64_t n) {
  int64_t lanes = type == kDouble ? Register<double>::lanes : Register<float>::lanes;
  bool half = type == kBFloat16 || type == kFloat16;
  int64_t fits = kTileBytes / (n * METRONORM_BYTES);
  return lanes * (fits >= 4 ? 4 : fits >= 2 || half ? 2 : 1);
}

// Loads the first `count` rows of a register; the other rows are 0.
template <class T>
inline V<wide<T>> load_some(const T* from, int64_t count) {
  if (count >= Register<wide<T>>::lanes) return load(from);
  T some[Register<wide<T>>::lanes] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = from[i];
  return load(some);
}
template <class T>
inline void store_some(V<wide<T>> x, T* to, int64_t count) {
  if (count >= Register<wide<T>>::lanes) return store(x, to);
  T some[Register<wide<T>>::lanes];
  store(x, some);
  for (int64_t i = 0; i < count; ++i) to[i] = some[i];
}

// For kWide registers of rows: r, and the mean as the sum of a high and a low part.
template <class A, int kWide>
struct Rates {
  static constexpr int64_t W = Register<A>::lanes;
  V<A> high[kWide], rate[kWide], low[kWide];
  void set(int64_t lane, double mean, double r) {
    A part = A(mean);
    high[lane / W][lane % W] = part, rate[lane / W][lane % W] = A(r);
    low[lane / W][lane % W] = A((mean - double(part)) * r);
  }
};

template <int kWide, class X>
void forward_tile(const Forward& f, const X* x, X* y, int64_t stride, int64_t count, int64_t row) {
  typedef wide<X> A;
  constexpr int64_t W = Register<A>::lanes;
  const A *weight = (const A*)f.weight, *bias = (const A*)f.bias;
  V<A> mean[kWide] = {}, rest[kWide] = {}, squares[kWide] = {};
  if (f.centred) {  // sum differences from the first channel: far from zero, a plain sum loses digits
    V<A> first[kWide];
    for (int k = 0; k < kWide; ++k) first[k] = load_some(x + k * W, count - k * W);
    for (int64_t c = 0; c < f.n; ++c) {
      for (int k = 0; k < kWide; ++k) {
        __builtin_prefetch(y + c * stride + k * W, 0, 2);
        mean[k] += load_some(x + c * stride + k * W, count - k * W) - first[k];
      }
    }
    for (int k = 0; k < kWide; ++k) mean[k] = first[k] + mean[k] / A(f.n);
  }
  for (int64_t begin = 0; begin < f.n; begin += kShortSum) {
    int64_t end = f.n - begin < kShortSum ? f.n : begin + kShortSum;
    V<A> some[kWide] = {}, some_squares[kWide] = {};
    for (int64_t c = begin; c < end; ++c) {
      for (int k = 0; k < kWide; ++k) {
        __builtin_prefetch(x + c * stride + (kWide + k) * W, 0, 2);  // the next tile
        V<A> d = load_some(x + c * stride + k * W, count - k * W) - mean[k];
        some[k] += d, some_squares[k] += d * d;
      }
    }
    for (int k = 0; k < kWide; ++k) rest[k] += some[k], squares[k] += some_squares[k];
  }
  Rates<A, kWide> rates = {};
  for (int64_t i = 0; i < count; ++i) {
    double m = mean[i / W][i % W], s = rest[i / W][i % W], q = squares[i / W][i % W], n = double(f.n);
    Moments found = {f.centred ? m + s / n : 0.0, f.centred ? q - s * s / n : q};
    bool fine = q < __builtin_inf() && (!f.centred || q <= 4 * found.squares);
    if (!fine) found = careful_moments(x + i, f.n, f.centred, stride);
    double r = 1 / __builtin_sqrt(found.squares / n + f.eps);
    rates.set(i, found.mean, r);
    f.stats[2 * (row + i)] = found.mean, f.stats[2 * (row + i) + 1] = r;
  }
  for (int64_t c = 0; c < f.n; ++c) {
    for (int k = 0; k < kWide; ++k) {
      V<A> s = load_some(x + c * stride + k * W, count - k * W);
      V<A> h = (s - rates.high[k]) * rates.rate[k] - rates.low[k];
      store_some(h * weight[c] + bias[c], y + c * stride + k * W, count - k * W);
    }
  }
}

template <int kWide, class X, bool kOutput>
void backward_tile(const Backward& b, const X* dy, const X* saved, X* dsum, int64_t stride, int64_t count,
                   int64_t row, const Partial& partial) {
  typedef wide<X> A;
  constexpr int64_t W = Register<A>::lanes;
  const A *weight = (const A*)b.weight, *bias = (const A*)b.bias, *inverse = (const A*)b.inverse;
  Rates<A, kWide> rates = {};
  for (int64_t i = 0; i < count; ++i) rates.set(i, b.stats[2 * (row + i)], b.stats[2 * (row + i) + 1]);
  auto hat = [&](int64_t c, int k) {
    V<A> s = load_some(saved + c * stride + k * W, count - k * W);
    if (kOutput) return (s - bias[c]) * inverse[c];
    return (s - rates.high[k]) * rates.rate[k] - rates.low[k];
  };
  V<A> with_h[kWide] = {}, alone[kWide] = {};
  for (int64_t c = 0; c < b.n; ++c) {
    for (int k = 0; k < kWide; ++k) {
      __builtin_prefetch(dsum + c * stride + k * W, 0, 2);
      V<A> a = rounded(load_some(dy + c * stride + k * W, count - k * W) * weight[c]);
      with_h[k] += a * hat(c, k), alone[k] += a;
    }
  }
  for (int k = 0; k < kWide; ++k) {
    with_h[k] /= A(b.n);
    alone[k] = b.centred ? alone[k] / A(b.n) : V<A>{};
  }
  A *part_weight = (A*)partial.part_weight, *part_bias = (A*)partial.part_bias;
  for (int64_t c = 0; c < b.n; ++c) {
    V<A> to_weight = load(part_weight + c * W), to_bias = load(part_bias + c * W);
    for (int k = 0; k < kWide; ++k) {
      __builtin_prefetch(dy + c * stride + (kWide + k) * W, 0, 2);  // the next tile
      __builtin_prefetch(saved + c * stride + (kWide + k) * W, 0, 2);
      V<A> slope = load_some(dy + c * stride + k * W, count - k * W), h = hat(c, k);
      V<A> d = (rounded(slope * weight[c]) - alone[k] - h * with_h[k]) * rates.rate[k];
      store_some(d, dsum + c * stride + k * W, count - k * W);
      to_weight += slope * h, to_bias += slope;
    }
    store(to_weight, part_weight + c * W);
    store(to_bias, part_bias + c * W);
  }
}

// Calls tile(width, offset, count, row) for the tiles [begin, end); width is its number of registers.
template <class A, class Tile>
void each_tile(const Columns& at, int64_t n, Type type, int64_t begin, int64_t end, const Tile& tile) {
  constexpr int64_t W = Register<A>::lanes;
  int64_t size = columns_tile(type, n), per_outer = (at.inner + size - 1) / size;
  for (int64_t t = begin; t < end; ++t) {
    int64_t outer = t / per_outer, first = t % per_outer * size;
    int64_t left = at.inner - first < size ? at.inner - first : size;
    while (left > 0) {  // the last tile of an image is processed in single registers
      int64_t width = left >= size ? size / W : 1, count = left < width * W ? left : width * W;
      tile(width, outer * at.outer_stride + first, count, outer * at.inner + first);
      first += count, left -= count;
    }
  }
}

template <class X>
constexpr Type type_of() {
  return sizeof(X) == 8 ? kDouble : sizeof(X) == 4 ? kFloat : kBFloat16;  // both half types have the same tiles
}

template <class X>
void forward_columns(const Forward& f, const Columns& at, int64_t begin, int64_t end) {
  each_tile<wide<X>>(at, f.n, type_of<X>(), begin, end,
                     [&](int64_t width, int64_t offset, int64_t count, int64_t row) {
    const X* x = (const X*)f.x.data + offset;
    X* y = (X*)f.y.data + offset;
    if (width == 4) forward_tile<4>(f, x, y, at.column_stride, count, row);
    if (width == 2) forward_tile<2>(f, x, y, at.column_stride, count, row);
    if (width == 1) forward_tile<1>(f, x, y, at.column_stride, count, row);
  });
}

template <class A>
void flush_columns(const Partial& partial, int64_t n) {
  constexpr int64_t W = Register<A>::lanes;
  A *weight = (A*)partial.part_weight, *bias = (A*)partial.part_bias;
  for (int64_t c = 0; c < n; ++c) {
    partial.total_weight[c] += sum(load(weight + c * W));
    partial.total_bias[c] += sum(load(bias + c * W));
    store(V<A>{}, weight + c * W);
    store(V<A>{}, bias + c * W);
  }
}

template <class X, bool kOutput>
void backward_columns(const Backward& b, const Columns& at, int64_t begin, int64_t end,
                      const Partial& partial) {
  int64_t unflushed = 0;
  each_tile<wide<X>>(at, b.n, type_of<X>(), begin, end,
                     [&](int64_t width, int64_t offset, int64_t count, int64_t row) {
    const X *dy = (const X*)b.dy.data + offset, *saved = (const X*)b.saved.data + offset;
    X* dsum = (X*)b.dsum.data + offset;
    int64_t stride = at.column_stride;
    if (width == 4) backward_tile<4, X, kOutput>(b, dy, saved, dsum, stride, count, row, partial);
    if (width == 2) backward_tile<2, X, kOutput>(b, dy, saved, dsum, stride, count, row, partial);
    if (width == 1) backward_tile<1, X, kOutput>(b, dy, saved, dsum, stride, count, row, partial);
    if (++unflushed == 16) flush_columns<wide<X>>(partial, b.n), unflushed = 0;
  });
  flush_columns<wide<X>>(partial, b.n);
}

}  // namespace
}  // namespace metronorm
