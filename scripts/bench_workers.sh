#!/usr/bin/env bash
# Many trials at once: what a pool of workers gains and costs, on made-up trials of 2 s that need no processor. A minute.
#
#   ./scripts/bench_workers.sh [--quick]
#   ./scripts/bench_workers.sh --steps      two real trials of the demo on two halves of this CPU, beside each other and
#                                           alone: 5 minutes on two cores
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
for word in "$@"; do
    if [ "$word" = --steps ]; then autoresearch prepare --flagfile=configs/demo.flags >&2; fi
done
exec python scripts/bench_workers.py "$@"
