#!/usr/bin/env bash
# What each shipped idea gives on this device: a run that measures all of them, by the rule that decides in any run. With
# the CPU's defaults hours: about as many trials as ideas and half as many again. The same command goes on after a stop.
#
#   ./scripts/bench_ideas.sh [--budget_seconds=N | --budget_steps=N] [--write]      --help says the rest
#   ./scripts/bench_ideas.sh --flagfile=configs/h100.flags --write
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_ideas.py "$@"
