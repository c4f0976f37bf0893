#!/usr/bin/env bash
# Everything that must hold before a change lands: style, layering, types, tests. Sets itself up.
#
#   ./scripts/test.sh [PYTEST ARGUMENT ...]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
lint-imports
mypy
python -m pytest "$@"
