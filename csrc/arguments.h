// Converts tensors to what the kernels take, and refuses every wrong argument.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <vector>

#include "processor.h"

namespace metronorm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Shape {
  int64_t rows, n;
};

Type type_of(ScalarType type);
Shape checked_shape(const Tensor& x, int64_t dims);
Pair checked_pair(ScalarType x, ScalarType residual);
inline Pair checked_pair(const Tensor& x, const Tensor& residual) {
  return checked_pair(x.scalar_type(), residual.scalar_type());
}
void check_sizes(const char* name, const Tensor& tensor, const Tensor& like);
void check_stats(const Tensor& stats, const Shape& shape);
Dropout checked_dropout(double dropout, const std::optional<Tensor>& seed);

// weight and bias in the compute type; if absent, ones and zeros.
struct Affine {
  const void *weight, *bias, *inverse = nullptr;

  Affine(const Shape& shape, Pair pair, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias);
  void invert();  // sets inverse = 1 / weight

 private:
  const void* converted(const char* name, const std::optional<Tensor>& given, double otherwise);
  void* room();

  int64_t n_;
  Pair pair_;
  std::vector<Tensor> kept_;
  std::vector<std::vector<char>> owned_;
};

Operand operand(const Tensor& tensor, int64_t dims);
bool all_contiguous(std::initializer_list<const Operand*> operands);
// The common layout of operands, if all of them have the same channels-first layout.
std::optional<Columns> common_columns(std::initializer_list<const Operand*> operands);

Tensor empty_like(const Tensor& tensor, ScalarType type);
Tensor empty_stats(const Tensor& x, int64_t dims);
Tensor empty(const Tensor& like, int64_t size);

}  // namespace metronorm
