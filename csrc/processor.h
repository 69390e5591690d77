// Which instruction sets this processor has, and which of them is in use.
#pragma once

#include "kernels.h"

namespace metronorm {

const Kernels& kernels();  // of the set in use: the best there is, unless another was chosen

}  // namespace metronorm

// What metronorm/norm/kernels.py calls.
#define METRONORM_API __attribute__((visibility("default")))
extern "C" {
METRONORM_API int metronorm_count();                   // of the sets this processor can run
METRONORM_API const char* metronorm_name(int index);   // the fastest last
METRONORM_API int metronorm_current();
METRONORM_API void metronorm_choose(int index);
}
