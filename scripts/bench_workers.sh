#!/usr/bin/env bash
# Many trials at once: what a pool of workers gains and costs, on made-up trials of 2 s that need no processor. A minute.
#
#   ./scripts/bench_workers.sh [--quick]
#   ./scripts/bench_workers.sh --steps      two real trials of the demo on two halves of this CPU, beside each other and
#                                           alone: 5 minutes on two cores
#   ./scripts/bench_workers.sh --ray        the same trials on three nodes of a Ray cluster on this machine, one of which
#                                           is killed; needs ./scripts/setup.sh ray, and root: a minute and a half
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
for word in "$@"; do
    if [ "$word" = --steps ]; then autoresearch prepare --flagfile=configs/demo.flags >&2; fi
done
if [ "${1:-}" = --ray ]; then exec python scripts/bench_workers_ray.py; fi
exec python scripts/bench_workers.py "$@"
