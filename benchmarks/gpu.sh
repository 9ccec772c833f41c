#!/bin/sh
# All that a machine with a GPU has to say about this package, in one run of at most six minutes: see gpu.py, which it starts.
#   benchmarks/gpu.sh [--output DIR] [--data FOLDER]        PYTHON: the interpreter of the environment, default python
cd "$(dirname "$0")/.." && exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
