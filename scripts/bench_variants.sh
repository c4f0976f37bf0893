#!/usr/bin/env bash
# Which training file, or which constants, train_lib.py should come with: one trial of 60 s a variant and seed, on the
# dataset and flags of configs/cpu.flags, in turns. Two seeds of two variants take about seven minutes.
#
#   ./scripts/bench_variants.sh [--budget=SECONDS] [--seeds=COUNT] VARIANT ...
#   ./scripts/bench_variants.sh autoresearch_jax/ideas/bases/df10dc715aa9.txt train_lib.py
#   ./scripts/bench_variants.sh HEAD_DIM=128,ASPECT_RATIO=32,DEPTH=4 train_lib.py:DEPTH=3
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/cpu.flags >&2
exec python scripts/bench_variants.py "$@"
