// Rows whose elements are neighbours in memory: moments, normalization and gradients.
//
// Sums of up to kChunk elements are in the compute type; the sums of these sums are double. The
// notation is that of metronorm/norm/composed.py: h = (x - mean) * r, a = dy * weight.
#pragma once

#include "philox.h"

namespace metronorm {
namespace {

constexpr int64_t kChunk = 4096;

// The values to compute the moments of: x itself, or keep * x + residual, which goes to summed.
template <class X>
struct Plain {
  const X* x;
  V<wide<X>> at(int64_t j) const { return load(x + j); }
  wide<X> one(int64_t j) const { return widened(x[j]); }
};
template <class X, class R>
struct Added {
  typedef wide<X> A;
  const X* x;
  const R* residual;
  R* summed;
  const A* keep;  // or null
  V<A> at(int64_t j) const {
    V<A> part = load(x + j);
    if (keep) part *= load(keep + j);
    store(part + load(residual + j), summed + j);
    return load(summed + j);  // rounded, as the backward pass will read it
  }
  A one(int64_t j) const {
    A part = widened(x[j]);
    if (keep) part *= keep[j];
    narrowed(part + widened(residual[j]), summed + j);
    return widened(summed[j]);
  }
};

// Mean and sum of squares in double, for rows that float is not enough for: far from zero, or huge.
template <class R>
Moments careful_moments(const R* x, int64_t n, bool centred, int64_t stride = 1) {
  double mean = 0;
  if (centred) {
    for (int64_t j = 0; j < n; ++j) mean += widened(x[j * stride]);
    mean /= double(n);
  }
  double rest = 0, squares = 0;
  for (int64_t j = 0; j < n; ++j) {
    double d = widened(x[j * stride]) - mean;
    rest += d, squares += d * d;
  }
  if (!centred) return {0, squares};
  return {mean + rest / double(n), squares - rest * rest / double(n)};
}

// One pass, with a shift near the mean (Chan, Golub and LeVeque, 1983). If the shift is too far from
// the mean, `careful_moments` reads the values again from `x`. `to` will be written next: it is
// fetched into the cache while x is read, which takes no extra time.
template <class Source, class R, class X>
Moments moments(const Source& source, const R* x, int64_t n, bool centred, const X* to) {
  typedef wide<R> A;
  constexpr int64_t W = Register<A>::lanes;
  A shift = 0;
  if (centred && n >= W) {
    shift = A(sum(source.at(0)) / double(W));
  } else if (centred) {
    for (int64_t j = 0; j < n; ++j) shift += source.one(j);
    shift /= A(n);
  }
  double sums = 0, squares = 0;
  int64_t j = 0;
  V<A> by = splat(shift);
  while (j + W <= n) {
    V<A> s[4] = {}, q[4] = {};
    int64_t end = n - j < kChunk ? n : j + kChunk;
    for (; j + 4 * W <= end; j += 4 * W) {
      for (int k = 0; k < 4; ++k) {
        __builtin_prefetch(to + j + k * W, 0, 2);
        V<A> d = source.at(j + k * W) - by;
        s[k] += d, q[k] += d * d;
      }
    }
    for (; j + W <= end; j += W) {
      V<A> d = source.at(j) - by;
      s[0] += d, q[0] += d * d;
    }
    sums += sum((s[0] + s[1]) + (s[2] + s[3]));
    squares += sum((q[0] + q[1]) + (q[2] + q[3]));
  }
  for (; j < n; ++j) {
    double d = source.one(j) - shift;
    sums += d, squares += d * d;
  }
  double rest = sums / double(n), inner = centred ? squares - sums * rest : squares;
  bool fine = squares < __builtin_inf() && (!centred || squares <= 4 * inner);
  if (!fine) return careful_moments(x, n, centred);
  return {centred ? double(shift) + rest : 0.0, inner};
}

// The pointers and numbers to normalize one row.
template <class R, class X>
struct Centred {
  typedef wide<R> A;
  const R* x;
  X* y;
  A high, rate, low;  // h = (x - high) * rate - low
  Centred() = default;
  Centred(const R* x, X* y, double mean, double r)
      : x(x), y(y), high(A(mean)), rate(A(r)), low(A((mean - double(A(mean))) * r)) {}
};

// y = h * weight + bias, for kRows rows at once, so that weights are read once for all of them. `next`
// and `residual` will be read after these rows, and are fetched into the cache.
template <int kRows, class R, class X>
void normalize(const Centred<R, X>* rows, const wide<R>* weight, const wide<R>* bias, int64_t n,
               const X* next, const R* residual, bool past) {
  typedef wide<R> A;
  constexpr int64_t W = Register<A>::lanes;
  Centred<R, X> own[kRows];
  for (int k = 0; k < kRows; ++k) own[k] = rows[k];
  int64_t j = 0;
  for (; j + W <= n; j += W) {
    V<A> w = load(weight + j), b = load(bias + j);
    __builtin_prefetch(next + j);
    __builtin_prefetch(residual + j);
#pragma GCC unroll 4
    for (int k = 0; k < kRows; ++k) {
      const auto& row = own[k];
      V<A> h = (load(row.x + j) - splat(row.high)) * splat(row.rate) - splat(row.low);
      store(h * w + b, row.y + j, past);
    }
  }
  for (; j < n; ++j) {
    for (int k = 0; k < kRows; ++k) {
      const auto& row = own[k];
      A h = (widened(row.x[j]) - row.high) * row.rate - row.low;
      narrowed(h * weight[j] + bias[j], row.y + j);
    }
  }
}

// h of one row from the saved tensor s. If s is the input, h = (s - high) * rate - low, with numbers of
// the row. If s is the output, h = (s - bias) * inverse.
template <class A, bool kOutput>
struct Hat {
  A high, rate, low;
  const A *bias, *inverse;
  Hat() = default;
  Hat(double mean, double r, const A* bias, const A* inverse)
      : high(A(mean)), rate(A(r)), low(A((mean - double(A(mean))) * r)), bias(bias), inverse(inverse) {}
  V<A> at(V<A> s, int64_t j) const {
    if (kOutput) return (s - load(bias + j)) * load(inverse + j);
    return (s - splat(high)) * splat(rate) - splat(low);
  }
  A one(A s, int64_t j) const {
    if (kOutput) return (s - bias[j]) * inverse[j];
    return (s - high) * rate - low;
  }
};

// sums[0] = sum(a * h), sums[1] = sum(a). `to` will be written next, and is fetched into the cache.
template <class X, class S, class A, bool kOutput, class R>
void slope_sums(const X* dy, const S* saved, const A* weight, const Hat<A, kOutput>& hat, int64_t n,
                double* sums, const R* to) {
  constexpr int64_t W = Register<A>::lanes;
  double with_h = 0, alone = 0;
  int64_t j = 0;
  while (j + W <= n) {
    V<A> p[4] = {}, q[4] = {};
    int64_t end = n - j < kChunk ? n : j + kChunk;
    for (; j + 4 * W <= end; j += 4 * W) {
      for (int k = 0; k < 4; ++k) {
        int64_t at = j + k * W;
        __builtin_prefetch(to + at, 0, 2);
        V<A> a = rounded(load(dy + at) * load(weight + at));
        p[k] += a * hat.at(load(saved + at), at), q[k] += a;
      }
    }
    for (; j + W <= end; j += W) {
      V<A> a = rounded(load(dy + j) * load(weight + j));
      p[0] += a * hat.at(load(saved + j), j), q[0] += a;
    }
    with_h += sum((p[0] + p[1]) + (p[2] + p[3]));
    alone += sum((q[0] + q[1]) + (q[2] + q[3]));
  }
  for (; j < n; ++j) {
    A a = rounded(widened(dy[j]) * weight[j]);
    with_h += a * hat.one(widened(saved[j]), j), alone += a;
  }
  sums[0] = with_h, sums[1] = alone;
}

// The pointers and numbers for the gradients of one row.
template <class X, class R, class S, bool kOutput>
struct Slope {
  typedef wide<R> A;
  const X* dy;
  const S* saved;
  const R* dsummed;  // or null
  R* dsum;
  X* dx;          // or null
  const A* keep;  // or null
  Hat<A, kOutput> hat;
  A r, with_h, alone;  // with_h and alone: means of a * h and of a
  int64_t dy_ahead, saved_ahead;  // distance, in elements, to the rows that are read next
};

// The operands of a row besides dy and dsum: none, dsummed, or any of dsummed, dx and keep.
enum Extras { kNone, kSummed, kAny };

// dsum = r * (a - mean(a) - h * mean(a * h)) + dsummed, dx = keep * dsum; adds dy * h and dy to the
// parts. It takes kRows rows at once, so that the parts are read and written once for all of them.
template <int kRows, Extras kExtras, class X, class R, class S, bool kOutput>
void slopes(const Slope<X, R, S, kOutput>* rows, const wide<R>* weight, wide<R>* part_weight,
            wide<R>* part_bias, int64_t n, bool past) {
  typedef wide<R> A;
  constexpr int64_t W = Register<A>::lanes;
  Slope<X, R, S, kOutput> own[kRows];  // a copy that no store can change, so it stays in registers
  for (int k = 0; k < kRows; ++k) own[k] = rows[k];
  int64_t j = 0;
  for (; j + W <= n; j += W) {
    V<A> w = load(weight + j), to_weight = load(part_weight + j), to_bias = load(part_bias + j);
#pragma GCC unroll 4
    for (int k = 0; k < kRows; ++k) {
      const auto& row = own[k];
      __builtin_prefetch(row.dy + j + row.dy_ahead, 0, 2);
      __builtin_prefetch(row.saved + j + row.saved_ahead, 0, 2);
      V<A> slope = load(row.dy + j), h = row.hat.at(load(row.saved + j), j);
      V<A> d = (rounded(slope * w) - splat(row.alone) - h * splat(row.with_h)) * splat(row.r);
      if (kExtras == kSummed || (kExtras == kAny && row.dsummed)) d += load(row.dsummed + j);
      store(d, row.dsum + j, past);
      if (kExtras == kAny && row.dx) store(row.keep ? d * load(row.keep + j) : d, row.dx + j, past);
      to_weight += slope * h, to_bias += slope;
    }
    store(to_weight, part_weight + j);
    store(to_bias, part_bias + j);
  }
  for (; j < n; ++j) {
    for (int k = 0; k < kRows; ++k) {
      const auto& row = rows[k];
      A slope = widened(row.dy[j]), h = row.hat.one(widened(row.saved[j]), j);
      A d = (rounded(slope * weight[j]) - row.alone - h * row.with_h) * row.r;
      if (row.dsummed) d += widened(row.dsummed[j]);
      narrowed(d, row.dsum + j);
      if (row.dx) narrowed(row.keep ? d * row.keep[j] : d, row.dx + j);
      part_weight[j] += slope * h, part_bias[j] += slope;
    }
  }
}

}  // namespace
}  // namespace metronorm
