#!/usr/bin/env bash
# Nights with and without --prune, simulated on recorded loss curves: experiments per hour, and improvements lost.
# Two minutes. --record trains what scripts/curves/ lacks (remove a file there to record it anew): ten minutes of CPU.
#
#   ./scripts/bench_prune.sh [--nights=500] [--record] [--overhead_seconds=4] [--budget_seconds=60]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev # the proposals that are recorded need its packages
export PATH="$PWD/.venv/bin:$PATH"
export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" # the same digits on any number of cores
exec python scripts/bench_prune.py "$@"
