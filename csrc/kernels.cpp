// The kernels. This file is compiled once for each instruction set; METRONORM_KERNELS is the name of
// the table that it then exports.
#include "kernels.h"

#include "columns.h"
#include "layout.h"
#include "rows.h"

namespace metronorm {
namespace {

// The number of rows that the backward pass takes together before it flushes their partial sums.
constexpr int64_t kFlush = 64, kTogether = 4;
// In elements. Longer rows are taken one at a time: a row then stays in the cache between two sweeps.
constexpr int64_t kLongRow = 16384;
// In bytes. Wider weights leave no room for a row in the first cache, so two rows share one read.
constexpr int64_t kWideWeights = 16384;

// The k-th buffer of one row, or null if there are no buffers.
template <class T>
T* buffer(void* scratch, int k, int64_t n) {
  return scratch ? (T*)((double*)scratch + k * n) : nullptr;
}

double rate(const Moments& found, int64_t n, double eps) {
  return 1 / __builtin_sqrt(found.squares / double(n) + eps);
}

// Computes the moments of one row, stores its stats, and returns what `normalize` needs.
template <class X, class R>
Centred<R, X> centred(const Forward& f, int64_t row, void* scratch) {
  typedef wide<R> A;
  int64_t n = f.n;
  const X* x = gathered(f.x, row, n, buffer<X>(scratch, 0, n));
  X* y = written(f.y, row, buffer<X>(scratch, 1, n));
  const X* fetched = f.past ? x : y;  // do not fetch into the caches what is written past them
  const R* what;
  Moments found;
  if (f.residual.data) {
    R* summed = written(f.summed, row, buffer<R>(scratch, 2, n));
    A* keep = f.dropout.on ? buffer<A>(scratch, 3, n) : nullptr;
    if (keep) fill_keep(f.dropout, row, 0, n, keep);
    Added<X, R> source{x, gathered(f.residual, row, n, buffer<R>(scratch, 4, n)), summed, keep};
    found = moments(source, summed, n, f.centred, fetched);
    scattered(f.summed, row, n, summed);
    what = summed;
  } else {
    what = (const R*)(const void*)x;
    found = moments(Plain<R>{what}, what, n, f.centred, fetched);
  }
  double r = rate(found, n, f.eps);
  f.stats[2 * row] = found.mean, f.stats[2 * row + 1] = r;
  return {what, y, found.mean, r};
}

template <class X, class R>
void forward(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  typedef wide<R> A;
  const A *weight = (const A*)f.weight, *bias = (const A*)f.bias;
  int64_t row = begin;
  if (!scratch && f.n * int64_t(sizeof(A)) > kWideWeights) {
    for (; row + 2 <= end; row += 2) {
      Centred<R, X> rows[2] = {centred<X, R>(f, row, nullptr), centred<X, R>(f, row + 1, nullptr)};
      int64_t next = row + 2 < end ? row + 2 : row;
      const R* residual = f.residual.data ? row_of<R>(f.residual, next) : rows[1].x;
      normalize<2>(rows, weight, bias, f.n, row_of<X>(f.x, next), residual, f.past);
    }
  }
  for (; row < end; ++row) {
    Centred<R, X> here = centred<X, R>(f, row, scratch);
    int64_t next = row + 1 < end ? row + 1 : row;
    const R* residual = f.residual.data ? row_of<R>(f.residual, next) : here.x;
    normalize<1>(&here, weight, bias, f.n, row_of<X>(f.x, next), residual, f.past);
    scattered(f.y, row, f.n, here.y);
  }
  finish_stores(f.past);
}

template <class X, class R>
Moments forward_moments(const Forward& f, int64_t row, int64_t from, int64_t to, void* scratch) {
  typedef wide<R> A;
  const X* x = row_of<X>(f.x, row) + from;
  if (!f.residual.data) {
    const R* what = (const R*)(const void*)x;
    return moments(Plain<R>{what}, what, to - from, f.centred, what);
  }
  A* keep = f.dropout.on ? (A*)scratch : nullptr;
  if (keep) fill_keep(f.dropout, row, from, to, keep);
  R* summed = row_of<R>(f.summed, row) + from;
  Added<X, R> source{x, row_of<R>(f.residual, row) + from, summed, keep};
  return moments(source, summed, to - from, f.centred, summed);
}

template <class X, class R>
void forward_apply(const Forward& f, int64_t row, int64_t from, int64_t to) {
  typedef wide<R> A;
  const R* what = row_of<R>(f.residual.data ? f.summed : f.x, row) + from;
  X* y = row_of<X>(f.y, row) + from;
  Centred<R, X> here(what, y, f.stats[2 * row], f.stats[2 * row + 1]);
  normalize<1>(&here, (const A*)f.weight + from, (const A*)f.bias + from, to - from, y, what, false);
}

template <class A>
void flush(const Partial& partial, int64_t from, int64_t n) {
  A *weight = (A*)partial.part_weight + from, *bias = (A*)partial.part_bias + from;
  for (int64_t j = 0; j < n; ++j) {
    partial.total_weight[from + j] += weight[j], partial.total_bias[from + j] += bias[j];
    weight[j] = bias[j] = 0;
  }
}

template <class A, bool kOutput>
Hat<A, kOutput> hat_of(const Backward& b, int64_t row, int64_t from) {
  double mean = b.stats[2 * row], r = b.stats[2 * row + 1];
  if (!kOutput) return {mean, r, nullptr, nullptr};
  return {mean, r, (const A*)b.bias + from, (const A*)b.inverse + from};
}

template <class X, class R, class S, bool kOutput>
Slope<X, R, S, kOutput> slope_of(const Backward& b, int64_t row, const Hat<wide<R>, kOutput>& hat,
                                 const double* sums) {
  typedef wide<R> A;
  double n = double(b.n), alone = b.centred ? sums[1] / n : 0;
  return {row_of<X>(b.dy, row),   row_of<S>(b.saved, row), row_of<R>(b.dsummed, row),
          row_of<R>(b.dsum, row), row_of<X>(b.dx, row),    nullptr,
          hat,                    A(b.stats[2 * row + 1]), A(sums[0] / n),
          A(alone),               0,                       0};
}

template <class X, class R, class S, bool kOutput>
void backward(const Backward& b, int64_t begin, int64_t end, const Partial& partial, void* scratch) {
  typedef wide<R> A;
  const A* weight = (const A*)b.weight;
  A *part_weight = (A*)partial.part_weight, *part_bias = (A*)partial.part_bias;
  int64_t n = b.n, unflushed = 0, row = begin;
  double sums[2];
  if (!scratch && n <= kLongRow) {
    for (; row + kTogether <= end; row += kTogether) {
      Slope<X, R, S, kOutput> rows[kTogether];
      for (int k = 0; k < kTogether; ++k) {
        auto hat = hat_of<A, kOutput>(b, row + k, 0);
        const X* dy = row_of<X>(b.dy, row + k);
        const void* fetched = b.past ? (const void*)dy : row_of<R>(b.dsum, row + k);
        slope_sums(dy, row_of<S>(b.saved, row + k), weight, hat, n, sums, (const R*)fetched);
        rows[k] = slope_of<X, R, S, kOutput>(b, row + k, hat, sums);
        if (row + k + kTogether < end) {
          rows[k].dy_ahead = row_of<X>(b.dy, row + k + kTogether) - dy;
          rows[k].saved_ahead = row_of<S>(b.saved, row + k + kTogether) - rows[k].saved;
        }
      }
      bool any = b.dx.data, summed = b.dsummed.data;
      auto run = any ? slopes<kTogether, kAny, X, R, S, kOutput>
                     : summed ? slopes<kTogether, kSummed, X, R, S, kOutput>
                              : slopes<kTogether, kNone, X, R, S, kOutput>;
      run(rows, weight, part_weight, part_bias, n, b.past);
      if ((unflushed += kTogether) >= kFlush) flush<A>(partial, 0, n), unflushed = 0;
    }
  }
  for (; row < end; ++row) {
    auto hat = hat_of<A, kOutput>(b, row, 0);
    const X* dy = gathered(b.dy, row, n, buffer<X>(scratch, 0, n));
    const S* saved = gathered(b.saved, row, n, buffer<S>(scratch, 1, n));
    slope_sums(dy, saved, weight, hat, n, sums, row_of<R>(b.dsum, row));
    auto slope = slope_of<X, R, S, kOutput>(b, row, hat, sums);
    slope.dy = dy, slope.saved = saved;
    slope.dsummed = gathered(b.dsummed, row, n, buffer<R>(scratch, 2, n));
    slope.dsum = written(b.dsum, row, buffer<R>(scratch, 3, n));
    slope.dx = written(b.dx, row, buffer<X>(scratch, 4, n));
    if (b.dropout.on) {
      A* keep = buffer<A>(scratch, 5, n);
      fill_keep(b.dropout, row, 0, n, keep);
      slope.keep = keep;
    }
    slopes<1, kAny>(&slope, weight, part_weight, part_bias, n, false);
    scattered(b.dsum, row, n, slope.dsum);
    scattered(b.dx, row, n, slope.dx);
    if (++unflushed >= kFlush) flush<A>(partial, 0, n), unflushed = 0;
  }
  flush<A>(partial, 0, n);
  finish_stores(b.past);
}

template <class X, class R, class S, bool kOutput>
void backward_sums(const Backward& b, int64_t row, int64_t from, int64_t to, double* sums) {
  typedef wide<R> A;
  slope_sums(row_of<X>(b.dy, row) + from, row_of<S>(b.saved, row) + from, (const A*)b.weight + from,
             hat_of<A, kOutput>(b, row, from), to - from, sums, row_of<R>(b.dsum, row) + from);
}

template <class X, class R, class S, bool kOutput>
void backward_apply(const Backward& b, int64_t row, int64_t from, int64_t to, const double* sums,
                    const Partial& partial, void* scratch) {
  typedef wide<R> A;
  auto slope = slope_of<X, R, S, kOutput>(b, row, hat_of<A, kOutput>(b, row, from), sums);
  slope.dy += from, slope.saved += from, slope.dsum += from;
  if (slope.dsummed) slope.dsummed += from;
  if (slope.dx) slope.dx += from;
  if (b.dropout.on) {
    fill_keep(b.dropout, row, from, to, (A*)scratch);
    slope.keep = (const A*)scratch;
  }
  slopes<1, kAny>(&slope, (const A*)b.weight + from, (A*)partial.part_weight + from,
            (A*)partial.part_bias + from, to - from, false);
  flush<A>(partial, from, to - from);
}

template <class T>
void widen(const void* from, void* to, int64_t n) {
  for (int64_t j = 0; j < n; ++j) ((wide<T>*)to)[j] = widened(((const T*)from)[j]);
}

template <class T>
void narrow(const double* from, void* to, int64_t n) {
  for (int64_t j = 0; j < n; ++j) narrowed(wide<T>(from[j]), (T*)to + j);
}

}  // namespace

#define EACH_TYPE(name) {name<float>, name<bfloat16>, name<float16>, name<double>}
#define EACH_PAIR(name) \
  {name<float, float>, name<bfloat16, bfloat16>, name<float16, float16>, name<double, double>, \
   name<bfloat16, float>, name<float16, float>}
#define BOTH(name, X, R) {name<X, R, R, false>, name<X, R, X, true>}
#define EACH_PAIR_BOTH(name) \
  {BOTH(name, float, float),   BOTH(name, bfloat16, bfloat16), BOTH(name, float16, float16), \
   BOTH(name, double, double), BOTH(name, bfloat16, float),    BOTH(name, float16, float)}

extern const Kernels METRONORM_KERNELS;
const Kernels METRONORM_KERNELS = {
    EACH_PAIR(forward),
    EACH_PAIR_BOTH(backward),
    EACH_PAIR(forward_moments),
    EACH_PAIR(forward_apply),
    EACH_PAIR_BOTH(backward_sums),
    EACH_PAIR_BOTH(backward_apply),
    columns_tile,
    EACH_TYPE(forward_columns),
    {{backward_columns<float, false>, backward_columns<float, true>},
     {backward_columns<bfloat16, false>, backward_columns<bfloat16, true>},
     {backward_columns<float16, false>, backward_columns<float16, true>},
     {backward_columns<double, false>, backward_columns<double, true>}},
    {Register<float>::lanes, Register<float>::lanes, Register<float>::lanes, Register<double>::lanes},
    kStreams,
    EACH_TYPE(widen),
    EACH_TYPE(narrow),
};

}  // namespace metronorm
