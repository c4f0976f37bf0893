#!/usr/bin/env bash
# The red team: candidates that cheat or do harm, each of which must be caught, and honest ones, none of which may be.
# On two cores its honest candidates alone take up to 25 minutes.
#
#   ./scripts/redteam.sh
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/redteam.py
