#!/usr/bin/env bash
# How far what works beside a trial yields to it: an agent with four busy processes, a trace that looks ahead, the
# process that waits for the next trial. Ratios within one run, so that other work on the machine bends them less.
# A minute and a half.
#
#   ./scripts/bench_yield.sh
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_yield.py "$@"
