#!/usr/bin/env bash
# Whether what a training file carries in pays: a table of the validation text, and trained weights, against the same
# file without them, on equal seeds. Ten minutes.
#
#   ./scripts/bench_carried.sh [--seeds=N] [--steps=N]      fewer than the 5 seeds and 60 steps show that it works, no more
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/cpu.flags >&2
exec python scripts/bench_carried.py "$@"
