#include "arguments.h"

namespace metronorm {

Type type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return kFloat;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Half: return kFloat16;
    case ScalarType::Double: return kDouble;
    default: STD_TORCH_CHECK(false, "norms are computed in float32, bfloat16, float16 and float64");
  }
}

Shape checked_shape(const Tensor& x, int64_t dims) {
  STD_TORCH_CHECK(x.is_cpu(), "x must be on the CPU");
  STD_TORCH_CHECK(x.dim() <= kMostDims, "at most ", kMostDims, " dimensions, got ", x.dim());
  STD_TORCH_CHECK(dims >= 1 && dims <= x.dim(), "dims must be 1 to ", x.dim(), ", got ", dims);
  Shape shape = {1, 1};
  for (int64_t d = 0; d < x.dim(); ++d) (d < x.dim() - dims ? shape.rows : shape.n) *= x.size(d);
  STD_TORCH_CHECK(shape.n > 0, "nothing to normalize: a normalized size is 0");
  return shape;
}

Pair checked_pair(ScalarType x, ScalarType residual) {
  Type first = type_of(x), second = type_of(residual);
  if (first == second) return Pair(first);
  STD_TORCH_CHECK(second == kFloat && first != kDouble, "dtypes cannot be mixed");
  return first == kBFloat16 ? kBFloat16Float : kFloat16Float;
}

void check_sizes(const char* name, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  bool same = tensor.dim() == like.dim();
  for (int64_t d = 0; same && d < like.dim(); ++d) same = tensor.size(d) == like.size(d);
  STD_TORCH_CHECK(same, name, " must have the shape of what it goes with");
}

void check_stats(const Tensor& stats, const Shape& shape) {
  STD_TORCH_CHECK(stats.is_cpu() && stats.scalar_type() == ScalarType::Double &&
                      stats.numel() == 2 * shape.rows && (stats.dim() > 0 && stats.size(stats.dim() - 1) == 2),
                  "stats must be float64, (..., 2)");
}

Dropout checked_dropout(double dropout, const std::optional<Tensor>& seed) {
  if (!seed) return {};
  STD_TORCH_CHECK(dropout >= 0 && dropout < 1, "dropout must be at least 0 and below 1, got ", dropout);
  STD_TORCH_CHECK(seed->is_cpu() && seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
                  "seed must be one int64");
  double threshold = std::min(std::nearbyint(dropout * 0x1p32), 0x1p32 - 1);
  return {true, uint32_t(threshold), uint64_t(*(const int64_t*)seed->const_data_ptr()), 1 / (1 - dropout)};
}

Affine::Affine(const Shape& shape, Pair pair, const std::optional<Tensor>& weight,
               const std::optional<Tensor>& bias)
    : n_(shape.n), pair_(pair) {
  this->weight = converted("weight", weight, 1);
  this->bias = converted("bias", bias, 0);
}

void Affine::invert() {
  void* to = room();
  for (int64_t j = 0; j < n_; ++j) {
    if (pair_ == kDoubleDouble) ((double*)to)[j] = 1 / ((const double*)weight)[j];
    else ((float*)to)[j] = 1 / ((const float*)weight)[j];
  }
  inverse = to;
}

void* Affine::room() {
  owned_.emplace_back(n_ * (pair_ == kDoubleDouble ? sizeof(double) : sizeof(float)));
  return owned_.back().data();
}

const void* Affine::converted(const char* name, const std::optional<Tensor>& given, double otherwise) {
  if (!given) {
    void* to = room();
    for (int64_t j = 0; j < n_; ++j) {
      if (pair_ == kDoubleDouble) ((double*)to)[j] = otherwise;
      else ((float*)to)[j] = float(otherwise);
    }
    return to;
  }
  STD_TORCH_CHECK(given->is_cpu() && given->numel() == n_, name, " must have ", n_, " elements");
  Type type = type_of(given->scalar_type());
  bool fits = pair_ == kDoubleDouble ? type == kDouble : type != kDouble;
  STD_TORCH_CHECK(fits, name, " is of a dtype that cannot be mixed with x's");
  kept_.push_back(given->is_contiguous() ? *given : torch::stable::contiguous(*given));
  const void* from = kept_.back().const_data_ptr();
  if (type == kFloat || type == kDouble) return from;
  void* to = room();
  kernels().widen[type](from, to, n_);
  return to;
}

// Merges neighbouring dimensions that one stride can describe, and leaves out those of size 1.
static int merged(const Tensor& tensor, int64_t first, int64_t last, int64_t* size, int64_t* stride) {
  int count = 0;
  for (int64_t d = first; d < last; ++d) {
    if (tensor.size(d) == 1) continue;
    if (count && stride[count - 1] == tensor.size(d) * tensor.stride(d)) {
      size[count - 1] *= tensor.size(d), stride[count - 1] = tensor.stride(d);
    } else {
      size[count] = tensor.size(d), stride[count] = tensor.stride(d), ++count;
    }
  }
  return count;
}

Operand operand(const Tensor& tensor, int64_t dims) {
  Operand result;
  int64_t leading = tensor.dim() - dims;
  Layout& at = result.layout;
  result.data = tensor.numel() ? const_cast<void*>(tensor.const_data_ptr()) : nullptr;
  at.leading = merged(tensor, 0, leading, at.leading_size, at.leading_stride);
  at.inner = merged(tensor, leading, tensor.dim(), at.inner_size, at.inner_stride);
  return result;
}

bool all_contiguous(std::initializer_list<const Operand*> operands) {
  return std::all_of(operands.begin(), operands.end(),
                     [](const Operand* each) { return !each->data || each->layout.contiguous(); });
}

std::optional<Columns> common_columns(std::initializer_list<const Operand*> operands) {
  std::optional<Columns> common;
  for (const Operand* each : operands) {
    const Layout& at = each->layout;
    int last = at.leading - 1;
    bool first = at.inner == 1 && at.inner_stride[0] > 1 && (last == 0 || last == 1) &&
                 at.leading_stride[last] == 1;
    if (!first) return {};
    Columns found = {last ? at.leading_size[0] : 1, at.leading_size[last], last ? at.leading_stride[0] : 0,
                     at.inner_stride[0]};
    if (common && (found.outer != common->outer || found.inner != common->inner ||
                   found.outer_stride != common->outer_stride || found.column_stride != common->column_stride)) {
      return {};
    }
    common = found;
  }
  return common;
}

Tensor empty_like(const Tensor& tensor, ScalarType type) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(tensor), from(std::optional<ScalarType>(type)), from(std::nullopt),
                                    from(std::nullopt), from(std::nullopt), from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor empty_stats(const Tensor& x, int64_t dims) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < x.dim() - dims; ++d) sizes.push_back(x.size(d));
  sizes.push_back(2);
  return torch::stable::new_empty(x, sizes, ScalarType::Double);
}

Tensor empty(const Tensor& like, int64_t size) {
  return torch::stable::new_empty(like, std::vector<int64_t>{size}, like.scalar_type());
}

}  // namespace metronorm
