#!/usr/bin/env bash
# What kills do to a run: drivers of a fake task die at random moments and are started again. A minute or two.
#
#   ./scripts/bench_kills.sh [--kills=N] [--seed=N]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
exec python tests/kills.py "$@"
