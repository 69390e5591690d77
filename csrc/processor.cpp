#include "processor.h"

#include <atomic>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace metronorm {

struct Level {
  const char* name;
  const Kernels* kernels;
  bool runs;
};

#if defined(__x86_64__)
extern const Kernels kernels_plain, kernels_avx2, kernels_avx512, kernels_avx512_bf16;

// Older compilers have no name for this feature.
static bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

// From slow to fast. A CPU that can run a set can also run every set before it.
static const Level* levels() {
  __builtin_cpu_init();
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                           has_f16c();
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vl");
  static const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  static const Level found[] = {{"plain", &kernels_plain, true},
                                {"avx2", &kernels_avx2, avx2},
                                {"avx512", &kernels_avx512, avx512},
                                {"avx512_bf16", &kernels_avx512_bf16, bf16},
                                {nullptr, nullptr, false}};
  return found;
}
#else
extern const Kernels kernels_plain;

static const Level* levels() {
#if defined(__aarch64__)
  static const Level found[] = {{"neon", &kernels_plain, true}, {nullptr, nullptr, false}};
#else
  static const Level found[] = {{"plain", &kernels_plain, true}, {nullptr, nullptr, false}};
#endif
  return found;
}
#endif

static int count() {
  int found = 0;
  while (levels()[found].runs) ++found;
  return found;
}

static std::atomic<int>& current() {
  static std::atomic<int> index(count() - 1);
  return index;
}

const Kernels& kernels() { return *levels()[current().load(std::memory_order_relaxed)].kernels; }

}  // namespace metronorm

int metronorm_count() { return metronorm::count(); }
const char* metronorm_name(int index) { return metronorm::levels()[index].name; }
int metronorm_current() { return metronorm::current(); }
void metronorm_choose(int index) {
  if (index >= 0 && index < metronorm::count()) metronorm::current() = index;
}
