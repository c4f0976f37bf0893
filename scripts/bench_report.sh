#!/usr/bin/env bash
# What the page of a long run costs: its report and its first paint, and the live page's updates, memory and processor
# time, for a made-up run of 2,000 experiments. Needs Chromium. About four minutes.
#
#   ./scripts/bench_report.sh [--experiments=N] [--seed=N]      fewer than the 2,000 show that it works, no more
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_report.py "$@"
