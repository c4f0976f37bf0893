#!/usr/bin/env bash
# Our search of a table of constants against Optuna's TPE, CMA-ES and random one, at equal numbers of trials: on ten
# synthetic problems, and on train_lib.py itself, small. Half an hour on two cores; what the real task measured is kept,
# so that the same command goes on where it ended.
#
#   ./scripts/bench_search.sh [--quick] [--cache=FOLDER]      --quick: to see that it works; no figures to quote
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev # cmaes is among its packages
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_search.py "$@"
