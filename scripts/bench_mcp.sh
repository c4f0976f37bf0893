#!/usr/bin/env bash
# How long `autoresearch mcp` takes from its start to the answer that a client waits for. Half a minute.
#
#   ./scripts/bench_mcp.sh [--starts=N]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh mcp
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_mcp.py "$@"
