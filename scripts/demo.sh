#!/usr/bin/env bash
# The whole way on this machine's CPU, without a key or a download: set up, make a dataset from Python's own library,
# run five experiments, print what came of it. Five to eight minutes on two cores, set-up included.
#
#   ./scripts/demo.sh [FLAG OF autoresearch run ...]
#
# Called again it goes on with the same run, which is over; --tag=demo2 begins another.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"

autoresearch prepare --flagfile=configs/demo.flags
autoresearch run --flagfile=configs/demo.flags "$@"
