#!/usr/bin/env bash
# What the sandbox costs at each of its levels: its start-up, and importing JAX in it, over a plain process; and what
# confinement costs the process of a trial. Three minutes.
#
#   ./scripts/bench_sandbox.sh
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_sandbox.py "$@"
