#!/usr/bin/env bash
# What the demo keeps, with ten seeds: ten runs of it beside a process that burns a core 5 s on and 5 s off, then
# baseline and champion of each trained again for a fixed number of steps on fresh seeds. About 75 minutes on two cores.
#
#   ./scripts/bench_demo.sh [--seeds=10] [--first=0] [--alone]      --alone: without the burner
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/demo.flags >&2
exec python scripts/bench_demo.py "$@"
