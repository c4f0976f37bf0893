#!/usr/bin/env bash
# What each rule of decision keeps, misses and costs, in simulated nights of 100 ideas. A minute; seeded, so it repeats.
#
#   ./scripts/bench_decisions.sh [--nights=N] [--seed=N]      fewer than the 1000 nights show that it works, no more
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_decisions.py "$@"
