// The operators of metronorm/norm/operators.py on CPUs. They check the arguments before they touch any
// memory, allocate the outputs, and split the work between torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "processor.h"

namespace metronorm {
namespace {

// In elements. It takes longer to wake a thread than to compute fewer.
constexpr int64_t kGrain = 32768;
// In elements. Longer rows of a channels-first layout are not read together.
constexpr int64_t kMostColumns = 4096;

// In bytes. A larger output would push everything else out of the caches.
constexpr int64_t kPastCaches = int64_t(64) << 20;

// Whether the outputs, of `elements` each, can and should be written past the caches.
bool past_caches(int64_t elements, int64_t n, std::initializer_list<std::pair<const Operand*, size_t>> outputs) {
  for (auto [output, size] : outputs) {
    if (!output->data) continue;
    if (elements * int64_t(size) < kPastCaches || n * size % 64 || uintptr_t(output->data) % 64) return false;
    const Layout& at = output->layout;
    for (int d = 0; d < at.leading; ++d) {
      if (at.leading_stride[d] * size % 64) return false;
    }
  }
  return true;
}

Type first_of(Pair pair) {
  return pair == kBFloat16Float ? kBFloat16 : pair == kFloat16Float ? kFloat16 : Type(pair);
}
Type second_of(Pair pair) { return int(pair) < kTypes ? Type(pair) : kFloat; }
size_t size_of(Type type) { return type == kDouble ? 8 : type == kFloat ? 4 : 2; }

template <class F>
void parallel(int64_t tasks, const F& f) {
  if (tasks == 1) return f(int64_t(0));
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(task);
  });
}

int64_t tasks_for(int64_t elements) {
  int64_t threads = torch::stable::get_num_threads(), most = elements / kGrain;
  return std::max<int64_t>(1, std::min(threads, most));
}

// Cuts rows that several threads share into segments; the length is a multiple of 64 elements.
struct Segments {
  int64_t per_row, length;
  Segments(int64_t n, int64_t wanted) {
    length = ((n + wanted - 1) / wanted + 63) / 64 * 64;
    per_row = (n + length - 1) / length;
  }
};

// Adds the moments of a second part to those of a first (Chan, Golub and LeVeque, 1979).
void combine(Moments& into, int64_t& count, const Moments& next, int64_t more) {
  double n = double(count), m = double(more), difference = next.mean - into.mean;
  into.mean += difference * m / (n + m);
  into.squares += next.squares + difference * difference * n * m / (n + m);
  count += more;
}

void forward_shared(const Forward& f, Pair pair, int64_t tasks) {
  const Kernels& use = kernels();
  Segments cut(f.n, (tasks + f.rows - 1) / f.rows);
  int64_t pieces = f.rows * cut.per_row;
  std::vector<Moments> found(pieces);
  std::vector<double> scratch(f.dropout.on ? pieces * cut.length : 0);
  auto range = [&](int64_t piece, auto&& act) {
    int64_t from = piece % cut.per_row * cut.length, to = std::min(f.n, from + cut.length);
    act(piece / cut.per_row, from, to);
  };
  parallel(pieces, [&](int64_t piece) {
    range(piece, [&](int64_t row, int64_t from, int64_t to) {
      found[piece] = use.forward_moments[pair](f, row, from, to, scratch.data() + (f.dropout.on ? piece * cut.length : 0));
    });
  });
  for (int64_t row = 0; row < f.rows; ++row) {
    Moments all = found[row * cut.per_row];
    int64_t count = std::min(f.n, cut.length);
    for (int64_t k = 1; k < cut.per_row; ++k) {
      combine(all, count, found[row * cut.per_row + k], std::min(f.n - count, cut.length));
    }
    f.stats[2 * row] = all.mean, f.stats[2 * row + 1] = 1 / std::sqrt(all.squares / double(f.n) + f.eps);
  }
  parallel(pieces, [&](int64_t piece) {
    range(piece, [&](int64_t row, int64_t from, int64_t to) { use.forward_apply[pair](f, row, from, to); });
  });
}

void run_forward(Forward& f, Pair pair) {
  const Kernels& use = kernels();
  if (f.rows == 0) return;
  int64_t tasks = tasks_for(f.rows * f.n);
  std::optional<Columns> columns;
  if (!f.residual.data) columns = common_columns({&f.x, &f.y});
  if (columns && f.n <= kMostColumns) {
    Type type = Type(pair);
    int64_t size = use.columns_tile(type, f.n);
    int64_t tiles = columns->outer * ((columns->inner + size - 1) / size);
    tasks = std::min(tasks, tiles);
    return parallel(tasks, [&](int64_t t) {
      use.forward_columns[type](f, *columns, tiles * t / tasks, tiles * (t + 1) / tasks);
    });
  }
  bool side_by_side = all_contiguous({&f.x, &f.residual, &f.y, &f.summed});
  if (f.rows < tasks && side_by_side) return forward_shared(f, pair, tasks);
  tasks = std::min(tasks, f.rows);
  f.past = use.streams && side_by_side &&
           past_caches(f.rows * f.n, f.n, {{&f.y, size_of(first_of(pair))}});
  int64_t room = side_by_side && !f.dropout.on ? 0 : 6 * f.n;
  std::unique_ptr<double[]> scratch(room ? new double[tasks * room] : nullptr);
  parallel(tasks, [&](int64_t t) {
    use.forward[pair](f, f.rows * t / tasks, f.rows * (t + 1) / tasks, room ? scratch.get() + t * room : nullptr);
  });
}

// The sums for weight and bias, one set per task; a part has `lanes` numbers per element.
class Partials {
 public:
  Partials(int64_t tasks, int64_t n, int64_t lanes)
      : tasks_(tasks), n_(n), size_(2 * n * (1 + lanes)), memory_(tasks * size_) {}
  Partial of(int64_t task) {
    double* at = memory_.data() + task * size_;
    int64_t part = (size_ - 2 * n_) / 2;
    return {at + 2 * n_, at + 2 * n_ + part, at, at + n_};
  }
  // Adds the sums of all tasks to those of the first task, and returns these.
  Partial reduced() {
    int64_t pieces = tasks_for(tasks_ * n_);
    if (tasks_ > 1) {
      parallel(pieces, [&](int64_t piece) {
        for (int64_t task = 1; task < tasks_; ++task) {
          const double* from = memory_.data() + task * size_;
          for (int64_t j = 2 * n_ * piece / pieces; j < 2 * n_ * (piece + 1) / pieces; ++j) memory_[j] += from[j];
        }
      });
    }
    return of(0);
  }

 private:
  int64_t tasks_, n_, size_;
  std::vector<double> memory_;
};

void backward_shared(const Backward& b, Pair pair, bool output, int64_t tasks, Partials& partials) {
  const Kernels& use = kernels();
  Segments cut(b.n, tasks);
  std::vector<double> sums(2 * b.rows * cut.per_row);
  auto end = [&](int64_t k) { return std::min(b.n, (k + 1) * cut.length); };
  parallel(cut.per_row, [&](int64_t k) {
    for (int64_t row = 0; row < b.rows; ++row) {
      use.backward_sums[pair][output](b, row, k * cut.length, end(k), &sums[2 * (row * cut.per_row + k)]);
    }
  });
  std::unique_ptr<double[]> scratch(b.dropout.on ? new double[cut.per_row * cut.length] : nullptr);
  parallel(cut.per_row, [&](int64_t k) {
    for (int64_t row = 0; row < b.rows; ++row) {
      double all[2] = {0, 0};
      for (int64_t other = 0; other < cut.per_row; ++other) {
        all[0] += sums[2 * (row * cut.per_row + other)], all[1] += sums[2 * (row * cut.per_row + other) + 1];
      }
      use.backward_apply[pair][output](b, row, k * cut.length, end(k), all, partials.of(0),
                                       scratch ? scratch.get() + k * cut.length : nullptr);
    }
  });
}

Partials run_backward(Backward& b, Pair pair, bool output) {
  const Kernels& use = kernels();
  int64_t tasks = tasks_for(b.rows * b.n);
  std::optional<Columns> columns;
  if (!b.dsummed.data && !b.dx.data) columns = common_columns({&b.dy, &b.saved, &b.dsum});
  if (columns && b.n <= kMostColumns && b.rows) {
    Type type = Type(pair);
    int64_t size = use.columns_tile(type, b.n);
    int64_t tiles = columns->outer * ((columns->inner + size - 1) / size);
    tasks = std::min(tasks, tiles);
    Partials partials(tasks, b.n, use.lanes[type]);
    parallel(tasks, [&](int64_t t) {
      use.backward_columns[type][output](b, *columns, tiles * t / tasks, tiles * (t + 1) / tasks, partials.of(t));
    });
    return partials;
  }
  bool side_by_side = all_contiguous({&b.dy, &b.dsummed, &b.saved, &b.dsum, &b.dx});
  if (b.rows && b.rows < tasks && side_by_side) {
    Partials partials(1, b.n, 1);
    backward_shared(b, pair, output, tasks, partials);
    return partials;
  }
  tasks = std::max<int64_t>(1, std::min(tasks, b.rows));
  b.past = use.streams && side_by_side && past_caches(b.rows * b.n, b.n,
                                       {{&b.dsum, size_of(second_of(pair))}, {&b.dx, size_of(first_of(pair))}});
  Partials partials(tasks, b.n, 1);
  int64_t room = side_by_side && !b.dropout.on ? 0 : 6 * b.n;
  std::unique_ptr<double[]> scratch(room ? new double[tasks * room] : nullptr);
  parallel(tasks, [&](int64_t t) {
    use.backward[pair][output](b, b.rows * t / tasks, b.rows * (t + 1) / tasks, partials.of(t),
                               room ? scratch.get() + t * room : nullptr);
  });
  return partials;
}

std::tuple<Tensor, Tensor, Tensor> add_norm(const Tensor x, const Tensor residual,
                                            std::optional<Tensor> weight, std::optional<Tensor> bias,
                                            int64_t dims, double eps, bool centred, bool /*save_output*/,
                                            double dropout, std::optional<Tensor> seed) {
  Shape shape = checked_shape(x, dims);
  Pair pair = checked_pair(x, residual);
  check_sizes("residual", residual, x);
  Affine affine(shape, pair, weight, bias);
  Tensor normed = empty_like(x, x.scalar_type()), summed = empty_like(residual, residual.scalar_type());
  Tensor stats = empty_stats(x, dims);
  Forward f = {operand(x, dims), operand(residual, dims), operand(normed, dims), operand(summed, dims),
               affine.weight, affine.bias, (double*)stats.mutable_data_ptr(), shape.rows, shape.n, eps,
               centred, checked_dropout(dropout, seed), false};
  run_forward(f, pair);
  return {normed, summed, stats};
}

std::tuple<Tensor, Tensor> norm(const Tensor x, std::optional<Tensor> weight, std::optional<Tensor> bias,
                                int64_t dims, double eps, bool centred, bool /*save_output*/) {
  Shape shape = checked_shape(x, dims);
  Pair pair = checked_pair(x, x);
  Affine affine(shape, pair, weight, bias);
  Tensor y = empty_like(x, x.scalar_type()), stats = empty_stats(x, dims);
  Forward f = {operand(x, dims), {}, operand(y, dims), {}, affine.weight, affine.bias,
               (double*)stats.mutable_data_ptr(), shape.rows, shape.n, eps, centred, {}, false};
  run_forward(f, pair);
  return {y, stats};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(
    const Tensor dy, std::optional<Tensor> dsummed, const Tensor saved, const Tensor stats,
    std::optional<Tensor> weight, std::optional<Tensor> bias, int64_t dims, double /*eps*/, bool centred,
    bool save_output, ScalarType dtype, double dropout, std::optional<Tensor> seed, bool need_weight,
    bool need_bias) {
  Shape shape = checked_shape(saved, dims);
  Pair pair = checked_pair(dy.scalar_type(), dtype);
  check_sizes("dy", dy, saved);
  STD_TORCH_CHECK(saved.scalar_type() == (save_output ? dy.scalar_type() : dtype),
                  "saved must be of the dtype of what was normalized");
  if (dsummed) {
    check_sizes("dsummed", *dsummed, saved);
    STD_TORCH_CHECK(dsummed->scalar_type() == dtype, "dsummed must be of the given dtype");
  }
  check_stats(stats, shape);
  Affine affine(shape, pair, weight, bias);
  if (save_output) affine.invert();
  Tensor dsum = empty_like(saved, dtype), dx = empty(dy, 0);
  Dropout drop = checked_dropout(dropout, seed);
  bool own = drop.on || dy.scalar_type() != dtype;
  if (own) dx = empty_like(saved, dy.scalar_type());
  Tensor contiguous_stats = stats.is_contiguous() ? stats : torch::stable::contiguous(stats);
  Backward b = {operand(dy, dims), dsummed ? operand(*dsummed, dims) : Operand{}, operand(saved, dims),
                operand(dsum, dims), own ? operand(dx, dims) : Operand{}, affine.weight, affine.bias,
                affine.inverse, (const double*)contiguous_stats.const_data_ptr(), shape.rows, shape.n,
                centred, drop, false};
  Partials partials = run_backward(b, pair, save_output);
  Partial sums = partials.reduced();
  auto narrowed = [&](bool need, const std::optional<Tensor>& like, const double* from) {
    if (!need || !like) return empty(dy, 0);
    Tensor result = torch::stable::new_empty(*like, like->sizes());
    kernels().narrow[type_of(like->scalar_type())](from, result.mutable_data_ptr(), shape.n);
    return result;
  };
  return {dsum, dx, narrowed(need_weight, weight, sums.total_weight), narrowed(need_bias, bias, sums.total_bias)};
}

}  // namespace
}  // namespace metronorm

STABLE_TORCH_LIBRARY_IMPL(metronorm, CPU, library) {
  library.impl("norm", TORCH_BOX(&metronorm::norm));
  library.impl("add_norm", TORCH_BOX(&metronorm::add_norm));
  library.impl("norm_backward", TORCH_BOX(&metronorm::norm_backward));
}
