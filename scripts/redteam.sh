#!/usr/bin/env bash
# The red team: candidates that cheat or do harm, each of which must be caught, and honest ones, none of which may be.
# A quarter of an hour on two cores.
#
#   ./scripts/redteam.sh
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/redteam.py
