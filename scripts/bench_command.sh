#!/usr/bin/env bash
# What the loop adds to an experiment of a command that takes a second. Half a minute on a quiet machine.
#
#   ./scripts/bench_command.sh [--experiments=20]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_command.py "$@"
