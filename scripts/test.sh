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
unset PYTHONDONTWRITEBYTECODE # some containers set it: then each process compiles what it imports
ruff check .
ruff format --check .

# Layering and types are checked beside the tests, since each takes one core; what they say comes last.
said=$(mktemp)
{ lint-imports && mypy; } >"$said" 2>&1 &
checks=$!
trap 'kill "$checks" 2>/dev/null || true; rm -f "$said"' EXIT

# Two processes more than there are cores: many tests wait for a process, a signal or a file.
export PYTEST_XDIST_AUTO_NUM_WORKERS="${PYTEST_XDIST_AUTO_NUM_WORKERS:-$(($(nproc) + 2))}"
status=0
python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder \
    "${selection[@]}" "$@" || status=$?
wait "$checks" || status=1
cat "$said"
exit "$status"
