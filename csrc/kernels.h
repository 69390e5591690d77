// The arguments of the kernels, and the table of kernels that each instruction set provides.
//
//   operators.cpp    checks arguments, allocates, and splits the work between torch's threads
//   processor.cpp    chooses the table of one instruction set
//   kernels.cpp      is compiled once per instruction set, and exports one table, `Kernels`
//
// Neither this file nor kernels.cpp uses the standard library. Otherwise the linker could keep the
// copy of an inline function that was compiled for AVX-512, and use it on every CPU.
#pragma once

#include <stdint.h>

namespace metronorm {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// A tensor, seen as rows of n normalized elements. The leading dimensions number the rows, the inner
// ones the elements of a row. Dimensions are merged where one stride is enough. Strides are in elements.
constexpr int kMostDims = 64;
struct Layout {
  int leading, inner;
  int64_t leading_size[kMostDims], leading_stride[kMostDims];
  int64_t inner_size[kMostDims], inner_stride[kMostDims];

  __attribute__((always_inline)) bool contiguous() const {
    return inner == 0 || (inner == 1 && inner_stride[0] == 1);
  }
};

struct Operand {
  void* data;  // null if the operand is absent
  Layout layout;
};

// Philox 4x32-10: see metronorm/norm/dropout.py. An element is dropped if its number is below threshold.
struct Dropout {
  bool on;
  uint32_t threshold;
  uint64_t seed;
  double scale;
};

struct Moments {
  double mean, squares;  // squares: sum of (x - mean)^2, or of x^2
};

struct Forward {
  Operand x, residual, y, summed;  // residual and summed are absent in a plain norm
  const void *weight, *bias;       // (n,) of the compute type: float, or double for double
  double* stats;                   // (rows, 2): mean, r
  int64_t rows, n;
  double eps;
  bool centred;
  Dropout dropout;
  bool past;  // write y past the caches
};

struct Backward {
  Operand dy, dsummed, saved, dsum, dx;  // dsummed and dx can be absent
  const void *weight, *bias, *inverse;   // inverse = 1 / weight, if the output was saved
  const double* stats;
  int64_t rows, n;
  bool centred;
  Dropout dropout;
  bool past;  // write dsum and dx past the caches
};

// Sums of one task for weight and bias: `part` adds up some rows in the compute type, `total` the parts.
struct Partial {
  void *part_weight, *part_bias;       // (n,), or (n, lanes) for columns, zero at first
  double *total_weight, *total_bias;   // (n,), zero at first
};

// Layout of images: element (o, c, i) is at o * outer_stride + c * column_stride + i.
struct Columns {
  int64_t outer, inner, outer_stride, column_stride;
};

enum Type { kFloat, kBFloat16, kFloat16, kDouble, kTypes };

// The types of x and residual: the same type, or a half type and float.
enum Pair { kFloatFloat, kBFloat16BFloat16, kFloat16Float16, kDoubleDouble, kBFloat16Float,
            kFloat16Float, kPairs };

struct Kernels {
  // Rows [begin, end), complete. scratch has 6 * n * 8 bytes if a layout is not contiguous or if there
  // is dropout.
  void (*forward[kPairs])(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*backward[kPairs][2])(const Backward&, int64_t begin, int64_t end, const Partial&, void* scratch);
  // Elements [from, to) of one row, in two steps: for rows that several threads share.
  Moments (*forward_moments[kPairs])(const Forward&, int64_t row, int64_t from, int64_t to, void* scratch);
  void (*forward_apply[kPairs])(const Forward&, int64_t row, int64_t from, int64_t to);
  void (*backward_sums[kPairs][2])(const Backward&, int64_t row, int64_t from, int64_t to, double sums[2]);
  void (*backward_apply[kPairs][2])(const Backward&, int64_t row, int64_t from, int64_t to,
                                    const double sums[2], const Partial&, void* scratch);
  // Tiles [begin, end) of a channels-first layout; a tile has columns_tile() neighbouring rows. The
  // parts of `Partial` have `lanes` numbers per column.
  int64_t (*columns_tile)(Type, int64_t n);
  void (*forward_columns[kTypes])(const Forward&, const Columns&, int64_t begin, int64_t end);
  void (*backward_columns[kTypes][2])(const Backward&, const Columns&, int64_t begin, int64_t end,
                                      const Partial&);
  int64_t lanes[kTypes];
  bool streams;  // can write past the caches
  // Conversion from and to the compute type.
  void (*widen[kTypes])(const void* from, void* to, int64_t n);
  void (*narrow[kTypes])(const double* from, void* to, int64_t n);
};

}  // namespace metronorm
