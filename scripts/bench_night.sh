#!/usr/bin/env bash
# What a night is worth: the full system against a bare greedy loop with random proposals, equal numbers of trials of
# equal numbers of steps, three seeds; then champions and baseline trained again on fresh seeds. Steps do not depend on
# speed: other work beside it changes the time it takes and nothing else.
#
#   ./scripts/bench_night.sh [--seeds=3] [--first=0] [--trials=40] [--steps=150] [--jobs=2] [--quick]
#
# --quick: to see that it works; no figures to quote.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/demo.flags >&2
exec python scripts/bench_night.py "$@"
