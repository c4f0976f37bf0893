#!/usr/bin/env bash
# Seconds around the budget: real runs in the default CPU configuration, with a process that waits for the next trial and
# without, and with an agent that is asked ahead. About ten minutes, and nothing else should run.
#
#   ./scripts/bench_loop.sh [--quick] [--rounds=N] [--budget_seconds=S]     --help says what is counted
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/cpu.flags >&2
exec python scripts/bench_loop.py "$@"
