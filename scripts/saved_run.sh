#!/usr/bin/env bash
# A run on a machine whose disk may be lost: prepares the dataset, fetches the run if PLACE has it and this machine does not,
# runs it, and copies its folder and git refs to PLACE as it goes on, when it ends, and when it is told to end.
#
#   ./scripts/saved_run.sh [--store=PLACE] [--save_every=300] -- --tag=TAG FLAG OF autoresearch run ...
#
# PLACE: a folder that survives the machine, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER. See docs/guide/clusters.md.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PWD/.venv/bin:$PATH"
if ! command -v autoresearch >/dev/null; then
    echo "saved_run: run ./scripts/setup.sh first, with the extras that this machine needs" >&2
    exit 2
fi
exec python scripts/saved_run.py "$@"
