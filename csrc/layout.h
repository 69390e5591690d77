// Finds the begin of a row. If the elements of a row are not neighbours in memory, they are gathered
// into a buffer before the kernels read them, and scattered from a buffer afterwards.
#pragma once

#include "kernels.h"

namespace metronorm {
namespace {

inline int64_t offset_of(int64_t index, int dims, const int64_t* size, const int64_t* stride) {
  if (dims == 0) return 0;
  if (dims == 1) return index * stride[0];
  int64_t offset = 0;
  for (int d = dims - 1; d >= 0; --d) {
    offset += index % size[d] * stride[d];
    index /= size[d];
  }
  return offset;
}

template <class T>
inline T* row_of(const Operand& operand, int64_t row) {
  const Layout& at = operand.layout;
  if (!operand.data) return nullptr;
  return (T*)operand.data + offset_of(row, at.leading, at.leading_size, at.leading_stride);
}

template <class T>
inline const T* gathered(const Operand& operand, int64_t row, int64_t n, T* buffer) {
  const T* x = row_of<T>(operand, row);
  const Layout& at = operand.layout;
  if (!x || at.contiguous()) return x;
  for (int64_t j = 0; j < n; ++j) buffer[j] = x[offset_of(j, at.inner, at.inner_size, at.inner_stride)];
  return buffer;
}

// The place to write a row to: its own place, or the buffer that `scattered` copies from.
template <class T>
inline T* written(const Operand& operand, int64_t row, T* buffer) {
  T* x = row_of<T>(operand, row);
  return !x || operand.layout.contiguous() ? x : buffer;
}

template <class T>
inline void scattered(const Operand& operand, int64_t row, int64_t n, const T* buffer) {
  T* x = row_of<T>(operand, row);
  const Layout& at = operand.layout;
  if (!x || at.contiguous()) return;
  for (int64_t j = 0; j < n; ++j) x[offset_of(j, at.inner, at.inner_size, at.inner_stride)] = buffer[j];
}

}  // namespace
}  // namespace metronorm
