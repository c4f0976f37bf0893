#!/usr/bin/env bash
# What a night is worth: two loops side by side, equal numbers of trials of equal numbers of steps, three seeds; then
# champions and baseline trained again on fresh seeds. Steps do not depend on speed: other work beside it changes the
# time it takes and nothing else.
#
#   ./scripts/bench_night.sh [--loops=hybrid,constants] [--seeds=3] [--first=0] [--trials=40] [--steps=150] [--jobs=2]
#   ./scripts/bench_night.sh --loops=constants,greedy     against a bare greedy loop with random proposals
#   ./scripts/bench_night.sh --quick                      to see that it works; no figures to quote
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/demo.flags >&2
exec python scripts/bench_night.py "$@"
