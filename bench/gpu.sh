#!/usr/bin/env bash
# Runs the tests of the Triton kernels and the benchmarks on a GPU, in at most 12 minutes. Rows are
# appended to bench/results. At the end it names every part that failed or took too long, and the exit
# code is then 1. On a machine without a GPU it prints one line, and the exit code is 0.
#
# bench/gpu.sh                        needs an environment with the extras dev and bench
# PYTHON=python3 bench/gpu.sh         another Python than that of .venv
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PYTHON=${PYTHON:-.venv/bin/python}

gpu=$("$PYTHON" -c 'import torch
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")') || exit 1
if [ -z "$gpu" ]; then
  echo "no GPU on this machine: nothing was tested or measured"
  exit 0
fi
echo "GPU: $gpu"

failed=()

# part NAME SECONDS ARGUMENTS...: run Python with these arguments, for at most SECONDS
part() {
  local name=$1 seconds=$2 code=0
  shift 2
  echo "== $name (at most $seconds s)"
  timeout --kill-after=5 "$seconds" "$PYTHON" "$@" || code=$?
  case $code in
    0) ;;
    124 | 137) failed+=("$name (stopped after $seconds s)") ;;
    *) failed+=("$name (exit code $code)") ;;
  esac
}

# The limits add up to 680 s; with the 5 s that each part has to end, to less than 12 minutes.
part "Triton tests" 180 -m pytest -q tests/norm/test_gpu.py
part "norms" 210 bench/layer_norm.py --device cuda
part "optimizers" 150 bench/ticks.py --device cuda
part "training" 140 bench/gpu_training.py

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed:"
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
echo "all parts passed"
