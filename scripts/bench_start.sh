#!/usr/bin/env bash
# What a user meets first: 40 starts with a fault or an odd habit in page, git, paths, network or agent, each made as a
# user makes it. 18 minutes on two cores beside other work. Exit status 0 if every one ended as it should.
#
#   ./scripts/bench_start.sh [--only=WORDS]      those alone whose line has these words
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_start.py "$@"
