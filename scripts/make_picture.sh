#!/usr/bin/env bash
# Makes docs/progress.png, the README's picture: the demo's task with more experiments, as `autoresearch report` draws it.
# Takes 20 to 40 minutes on two cores.
#
#   ./scripts/make_picture.sh [FLAG OF autoresearch run ...]
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"

autoresearch prepare --flagfile=configs/demo.flags
autoresearch run --flagfile=configs/demo.flags --tag=picture --experiments=40 "$@"
autoresearch report --tag=picture
cp runs/picture/progress.png docs/progress.png
