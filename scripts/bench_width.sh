#!/usr/bin/env bash
# Which head size, width and depth train_lib.py should come with: one trial of 60 s a setting and seed, on the dataset and
# flags of configs/cpu.flags. Two seeds of the eight settings take about twenty minutes.
#
#   ./scripts/bench_width.sh [HEAD_DIM,ASPECT_RATIO,DEPTH ...] [--budget=SECONDS] [--seeds=COUNT]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/cpu.flags >&2
exec python scripts/bench_width.py "$@"
