#!/usr/bin/env bash
# What must hold before a change lands: style, layering, types, and the fast tests on all cores. Sets itself up.
#
#   ./scripts/test.sh [--all] [PYTEST ARGUMENT ...]
#
# --all: the slow tests too: every cheat, 200 kills, exports for other platforms.
set -euo pipefail
cd "$(dirname "$0")/.."

selection=(-m "not slow")
if [ "${1:-}" = --all ]; then
    selection=()
    shift
fi
./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
lint-imports
mypy
python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder \
    "${selection[@]}" "$@"
