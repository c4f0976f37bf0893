#!/usr/bin/env bash
# How far the attended clock holds on a busy machine: steps and scores of the demo's program alone, beside one process
# that burns a core on and off, and beside two that burn all the time. About thirteen minutes on two cores; nothing
# else may run.
#
#   ./scripts/bench_clock.sh [--quick]      --quick: one trial of each, to see that the script works; no figures to quote
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/demo.flags >&2
exec python scripts/bench_clock.py "$@"
