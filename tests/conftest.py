"""Set before torch is loaded: two test processes on two cores, one thread each; a backend of Keras.

TensorFlow's LLVM and Triton's abort a process that loads them in this order. So TensorFlow is
loaded only where it is Keras' backend, and then after Triton.
"""

import contextlib
import os
import sys
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("KERAS_BACKEND", "torch")
if os.environ["KERAS_BACKEND"] == "tensorflow":
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
else:
    modules: dict[str, Any] = sys.modules
    modules["tensorflow"] = None  # what is not installed
