#!/usr/bin/env bash
# What a night is worth: best val_bpb against wall-clock of the full system, of it without pruning and without standby,
# and of a bare greedy loop with random proposals. About 90 minutes, and nothing else should run.
#
#   ./scripts/bench_night.sh [--quick] [--minutes=N] [--variants=full,greedy] [--out=FOLDER] [--save]
#
# --help says what is counted; --report_only makes plot and table of what lies in --out.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_night.py "$@"
