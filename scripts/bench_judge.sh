#!/usr/bin/env bash
# What the judge's probes cost, a sample of them and all, and how far honest numbers differ in them, in the default CPU
# configuration. Four minutes.
#
#   ./scripts/bench_judge.sh [--quick]      --quick: few repetitions, to see that the script works; no figures to quote
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/cpu.flags >&2
exec python scripts/bench_judge.py "$@"
