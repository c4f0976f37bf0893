#!/usr/bin/env bash
# How fast text becomes rows and rows become batches, at what memory, and whether a step ever waits for them. About six
# minutes with the default 400 MB of text.
#
#   ./scripts/bench_prepare.sh [--quick] [--megabytes=N] [--vocab_size=V]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_prepare.py "$@"
