#!/usr/bin/env bash
# What several runs in flight cost and save: simulated nights with 1, 2, 4, 8 and 16 of them, by the engine's decisions.
# Half an hour on two cores.
#
#   ./scripts/bench_flight.sh [--nights=100] [--in_flight=1,2,4,8,16] [--mixes=A,B,C,D] [--seed=0]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_flight.py "$@"
