// What the kernels compute on, and the table of them that each instruction set provides.
//
// kernels.cpp is compiled once per instruction set and exports one `Kernels`; processor.cpp chooses
// among them, operators.cpp checks arguments, allocates, and splits the work between torch's threads.
// Nothing here or in kernels.cpp uses the standard library: an inline function of it, compiled for
// AVX-512, could be what the linker keeps for everybody.
#pragma once

#include <stdint.h>

namespace metronorm {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// A tensor as rows of n normalized elements: the leading dimensions that number the rows, the
// normalized ones that number a row's elements; both merged where they can be. Strides in elements.
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
  void* data;  // null where the operand is absent
  Layout layout;
};

// Philox 4x32-10: see metronorm/norm/dropout.py. Elements whose number is below threshold are dropped.
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
  const void *weight, *bias, *inverse;   // inverse = 1 / weight, where the output was saved
  const double* stats;
  int64_t rows, n;
  bool centred;
  Dropout dropout;
  bool past;  // write dsum and dx past the caches
};

// Sums of weight gradients of one task: `part` takes some rows in the compute type, `total` the parts.
struct Partial {
  void *part_weight, *part_bias;       // (n,), or (n, lanes) for columns, zero at first
  double *total_weight, *total_bias;   // (n,), zero at first
};

// Image-like layout: element (o, c, i) is at o * outer_stride + c * column_stride + i.
struct Columns {
  int64_t outer, inner, outer_stride, column_stride;
};

enum Type { kFloat, kBFloat16, kFloat16, kDouble, kTypes };

// x and residual: of one type, or a half one beside float.
enum Pair { kFloatFloat, kBFloat16BFloat16, kFloat16Float16, kDoubleDouble, kBFloat16Float,
            kFloat16Float, kPairs };

struct Kernels {
  // Rows [begin, end), complete; scratch holds 6 * n * 8 bytes where a layout is not contiguous or
  // where there is dropout.
  void (*forward[kPairs])(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*backward[kPairs][2])(const Backward&, int64_t begin, int64_t end, const Partial&, void* scratch);
  // Elements [from, to) of one row; the same in two steps, for rows shared between threads.
  Moments (*forward_moments[kPairs])(const Forward&, int64_t row, int64_t from, int64_t to, void* scratch);
  void (*forward_apply[kPairs])(const Forward&, int64_t row, int64_t from, int64_t to);
  void (*backward_sums[kPairs][2])(const Backward&, int64_t row, int64_t from, int64_t to, double sums[2]);
  void (*backward_apply[kPairs][2])(const Backward&, int64_t row, int64_t from, int64_t to,
                                    const double sums[2], const Partial&, void* scratch);
  // Tiles [begin, end) of `tile` neighbouring rows of a channels-first layout. `lanes` numbers per
  // column in the parts of `Partial`.
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
