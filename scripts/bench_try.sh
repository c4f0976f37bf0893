#!/usr/bin/env bash
# How soon `autoresearch try`, `check` and `brief` answer, for the default training file and a warm page cache. Two to
# five minutes.
#
#   ./scripts/bench_try.sh [--repeats=5]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/cpu.flags >&2
exec python scripts/bench_try.py "$@"
