// Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, 2011), a register of counters at a time.
#pragma once

#include "vector.h"

namespace metronorm {
namespace {

// The high and the low halves of x * factor.
inline void multiply(Words x, uint32_t factor, Words* high, Words* low) {
#if defined(__AVX512F__)
  __m512i even = bits_as<__m512i>(x), by = _mm512_set1_epi32(int(factor));
  __m512i first = _mm512_mul_epu32(even, by), second = _mm512_mul_epu32(_mm512_srli_epi64(even, 32), by);
  *high = bits_as<Words>(_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(first, 32), second));
#elif defined(__AVX2__)
  __m256i even = bits_as<__m256i>(x), by = _mm256_set1_epi32(int(factor));
  __m256i first = _mm256_mul_epu32(even, by), second = _mm256_mul_epu32(_mm256_srli_epi64(even, 32), by);
  *high = bits_as<Words>(_mm256_blend_epi32(_mm256_srli_epi64(first, 32), second, 0xAA));
#else
  for (int64_t i = 0; i < kWords; ++i) (*high)[i] = uint32_t(uint64_t(x[i]) * factor >> 32);
#endif
  *low = x * factor;
}

// For columns [from, to) of a row: scale where an element is kept, 0 where it is dropped. `from` is a
// multiple of 4.
template <class A>
void fill_keep(const Dropout& dropout, int64_t row, int64_t from, int64_t to, A* keep) {
  Words steps;
  for (int64_t i = 0; i < kWords; ++i) steps[i] = uint32_t(i);
  for (int64_t column = from; column < to; column += 4 * kWords) {
    Words c0 = steps + uint32_t(column / 4), c1 = Words{} + uint32_t(row);
    Words c2 = Words{} + uint32_t(uint64_t(row) >> 32), c3 = {};
    uint32_t k0 = uint32_t(dropout.seed), k1 = uint32_t(dropout.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      Words high0, low0, high1, low1;
      multiply(c0, 0xD2511F53u, &high0, &low0);
      multiply(c2, 0xCD9E8D57u, &high1, &low1);
      c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    int64_t count = to - column < 4 * kWords ? to - column : 4 * kWords;
    uint32_t drawn[4 * kWords];
    for (int64_t i = 0; i < kWords; ++i) {
      drawn[4 * i] = c0[i], drawn[4 * i + 1] = c1[i], drawn[4 * i + 2] = c2[i], drawn[4 * i + 3] = c3[i];
    }
    for (int64_t i = 0; i < count; ++i) {
      keep[column - from + i] = drawn[i] >= dropout.threshold ? A(dropout.scale) : A(0);
    }
  }
}

}  // namespace
}  // namespace metronorm
