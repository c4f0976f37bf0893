#!/usr/bin/env bash
# What the driver itself costs: 2,000 experiments of a task that takes no time, in a real repository. A few minutes.
#
#   ./scripts/bench_driver.sh [--experiments=N] [--seed=N]      fewer than the 2,000 show that it works, no more
#   ./scripts/bench_driver.sh --in_flight=16                    with as many trials at a time
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_driver.py "$@"
