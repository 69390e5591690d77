// The instruction sets of this CPU, and the one in use.
#pragma once

#include "kernels.h"

namespace metronorm {

const Kernels& kernels();  // of the set in use: the fastest, unless another was chosen

}  // namespace metronorm

// metronorm/norm/kernels.py calls these.
#define METRONORM_API __attribute__((visibility("default")))
extern "C" {
METRONORM_API int metronorm_count();                   // number of the sets that this CPU can run
METRONORM_API const char* metronorm_name(int index);   // from slow to fast
METRONORM_API int metronorm_current();
METRONORM_API void metronorm_choose(int index);
}
