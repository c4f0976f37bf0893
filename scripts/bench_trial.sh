#!/usr/bin/env bash
# Figures of one trial in the default CPU configuration: how exactly the budget is kept, what a trial costs beside it,
# whether equal trials agree, and how far the model is below a unigram model. About ten minutes.
#
#   ./scripts/bench_trial.sh [--quick]      --quick: budgets of seconds, to see that the script works; no figures to quote
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/cpu.flags >&2
exec python scripts/bench_trial.py "$@"
