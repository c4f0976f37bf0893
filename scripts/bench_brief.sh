#!/usr/bin/env bash
# How much of an agent's page is the beginning of the page before it, which a service's cache of prompts then has: a
# short run of the demo's model with an agent that changes code, in steps. About a minute on a quiet machine.
#
#   ./scripts/bench_brief.sh [--experiments=6] [--steps=10]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
autoresearch prepare --flagfile=configs/demo.flags >&2
exec python scripts/bench_brief.py "$@"
