#!/usr/bin/env bash
# What a short run finds in each example, without a key: ten minutes of `autoresearch run` with --proposer=constants, then
# an audit of baseline and champion on the holdout. Three quarters of an hour; an example that cannot run here, such as
# one without PostgreSQL, says so, and the exit status is 1.
#
#   ./scripts/bench_examples.sh [--only=routing,retrieval] [--minutes=10]
#   ./scripts/bench_examples.sh --null=60        how many of N ideas without effect are certified
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_examples.py "$@"
