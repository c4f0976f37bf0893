#!/usr/bin/env bash
# What each rule of decision gains, claims and certifies in simulated nights of 300 runs. Under 10 minutes on two cores;
# seeded, so it repeats.
#
#   ./scripts/bench_decisions.sh [--nights=N] [--seed=N] [--settings=fast,balanced,strict,greedy] [--mixes=A,B,C,D,recorded]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH" OPENBLAS_NUM_THREADS=1
exec python scripts/bench_decisions.py "$@"
