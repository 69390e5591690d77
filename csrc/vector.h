// One register of numbers, for every instruction set: the vector types of GCC and Clang, and the few
// conversions that these compilers lack.
#pragma once

#include "kernels.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define METRONORM_BYTES 64
#elif defined(__AVX2__)
#define METRONORM_BYTES 32
#else
#define METRONORM_BYTES 16
#endif

namespace metronorm {
namespace {

template <class A>
struct Register {
  typedef A type __attribute__((vector_size(METRONORM_BYTES)));
  static constexpr int64_t lanes = METRONORM_BYTES / sizeof(A);
};
template <class A>
using V = typename Register<A>::type;
typedef uint32_t Words __attribute__((vector_size(METRONORM_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(METRONORM_BYTES / 2)));
constexpr int64_t kWords = METRONORM_BYTES / 4;
#if defined(__AVX512F__)
constexpr bool kStreams = true;
#else
constexpr bool kStreams = false;
#endif

template <class T>
struct Wide {
  typedef float type;
};
template <>
struct Wide<double> {
  typedef double type;
};
template <class T>
using wide = typename Wide<T>::type;  // the compute type of T

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "of one size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// Single numbers ----------------------------------------------------------------------------------

inline float widened(float x) { return x; }
inline double widened(double x) { return x; }
inline float widened(bfloat16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }
inline float widened(float16 x) {
  uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return bits_as<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  float scaled = bits_as<float>(rest << 13) * 0x1p112f;  // also right for subnormal numbers
  return bits_as<float>(sign | bits_as<uint32_t>(scaled));
}

inline void narrowed(float x, float* to) { *to = x; }
inline void narrowed(double x, double* to) { *to = x; }
inline void narrowed(float x, bfloat16* to) {
  uint32_t word = bits_as<uint32_t>(x);
  bool nan = x != x;
  to->bits = uint16_t(nan ? (word >> 16 | 0x40) : (word + 0x7fff + (word >> 16 & 1)) >> 16);
}
inline void narrowed(float x, float16* to) {
  uint32_t word = bits_as<uint32_t>(x), sign = word >> 16 & 0x8000, rest = word & 0x7fffffff;
  if (rest > 0x7f800000) {
    to->bits = uint16_t(sign | 0x7e00);
  } else if (rest >= 0x477ff000) {  // rounds to 2^16 or more
    to->bits = uint16_t(sign | 0x7c00);
  } else if (rest < 0x38800000) {  // subnormal: the addition of 0.5 leaves 24 bits below the point
    to->bits = uint16_t(sign | (bits_as<uint32_t>(bits_as<float>(rest) + 0.5f) - 0x3f000000));
  } else {
    to->bits = uint16_t(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
  }
}

// Registers ---------------------------------------------------------------------------------------

inline V<float> load(const float* from) {
  V<float> x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}
inline V<double> load(const double* from) {
  V<double> x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}
inline V<float> load(const bfloat16* from) {
#if defined(__AVX512F__)  // GCC's code for the general form takes four times as long
  Words x = bits_as<Words>(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)));
#elif defined(__AVX2__)
  Words x = bits_as<Words>(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from)));
#else
  Halves half;
  __builtin_memcpy(&half, from, sizeof(half));
  Words x = __builtin_convertvector(half, Words);
#endif
  return bits_as<V<float>>(x << 16);
}
inline V<float> load(const float16* from) {
#if defined(__AVX512F__)
  return bits_as<V<float>>(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from)));
#elif defined(__AVX2__)
  return bits_as<V<float>>(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)));
#elif defined(__aarch64__)
  return bits_as<V<float>>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)from))));
#else
  V<float> x;
  for (int64_t i = 0; i < kWords; ++i) x[i] = widened(from[i]);
  return x;
#endif
}

// x in its memory format; the pointer only selects the type.
inline V<float> packed(V<float> x, const float*) { return x; }
inline V<double> packed(V<double> x, const double*) { return x; }
inline Halves packed(V<float> x, const bfloat16*) {
#if defined(__AVX512BF16__)  // it treats subnormal numbers as 0
  return bits_as<Halves>(_mm512_cvtneps_pbh(bits_as<__m512>(x)));
#else
  Words word = bits_as<Words>(x), nan = Words(x != x);
  word = (nan & (word >> 16 | 0x40)) | (~nan & ((word + 0x7fff + (word >> 16 & 1)) >> 16));
#if defined(__AVX512F__)
  return bits_as<Halves>(_mm512_cvtepi32_epi16(bits_as<__m512i>(word)));
#else
  return __builtin_convertvector(word, Halves);
#endif
#endif
}
inline Halves packed(V<float> x, const float16*) {
#if defined(__AVX512F__)
  return bits_as<Halves>(_mm512_cvtps_ph(bits_as<__m512>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  return bits_as<Halves>(_mm256_cvtps_ph(bits_as<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
  return bits_as<Halves>(vcvt_f16_f32(bits_as<float32x4_t>(x)));
#else
  float16 half[kWords];
  for (int64_t i = 0; i < kWords; ++i) narrowed(x[i], half + i);
  Halves result;
  __builtin_memcpy(&result, half, sizeof(result));
  return result;
#endif
}

template <class T>
inline void store(V<wide<T>> x, T* to) {
  auto result = packed(x, to);
  __builtin_memcpy(to, &result, sizeof(result));
}
// With `past`, it writes past the caches: memory is not read first, and `to` must be aligned.
template <class T>
inline void store(V<wide<T>> x, T* to, bool past) {
#if defined(__AVX512F__)
  if (past) {
    auto result = packed(x, to);
    if constexpr (sizeof(result) == 64) _mm512_stream_si512((__m512i*)to, bits_as<__m512i>(result));
    else _mm256_stream_si256((__m256i*)to, bits_as<__m256i>(result));
    return;
  }
#endif
  store(x, to);
  (void)past;
}
inline void finish_stores(bool past) {
#if defined(__AVX512F__)
  if (past) _mm_sfence();
#endif
  (void)past;
}

template <class A>
inline V<A> splat(A x) {
  return x - V<A>{};
}

// x, rounded: the compiler must not fuse it into a multiply-add.
template <class T>
inline T rounded(T x) {
#if defined(__x86_64__)
  __asm__("" : "+v"(x));
#elif defined(__aarch64__)
  __asm__("" : "+w"(x));
#endif
  return x;
}

// The sum of all lanes, in double.
inline double sum(V<double> x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_pd(bits_as<__m512d>(x));
#else
  double total[2] = {};
  for (int64_t i = 0; i < Register<double>::lanes; ++i) total[i % 2] += x[i];
  return total[0] + total[1];
#endif
}
inline double sum(V<float> x) {
#if defined(__AVX512F__)
  __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(bits_as<__m512>(x)));
  __m512d high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(bits_as<__m512d>(x), 1)));
  return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
#elif defined(__AVX2__)
  __m256 y = bits_as<__m256>(x);
  __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(y));
  return sum(bits_as<V<double>>(low + _mm256_cvtps_pd(_mm256_extractf128_ps(y, 1))));
#else
  return (double(x[0]) + double(x[1])) + (double(x[2]) + double(x[3]));
#endif
}

}  // namespace
}  // namespace metronorm
