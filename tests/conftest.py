"""Set before torch is loaded: two test processes on two cores, one thread each."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("KERAS_BACKEND", "torch")
