#!/usr/bin/env bash
# Runs everything of this project once on the accelerator of this machine, part by part, and writes accelerator.json and
# accelerator.md. At most 8 minutes, with --quick 3; no network, no key. See docs/guide/accelerators.md.
#
#   ./scripts/check_accelerator.sh [--platform=auto|cpu|cuda|tpu] [--only=PART[,PART]] [--quick] [--out=DIR]
#                                  [--wheels=DIR] [--patience=FACTOR]
#
# Installs nothing into a Python: takes .venv if there is one with JAX, else the newest Python with JAX on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

has_jax() {
    "$1" -c '
import importlib.util, sys
usable = sys.version_info >= (3, 11) and importlib.util.find_spec("jax") and importlib.util.find_spec("jaxlib")
sys.exit(0 if usable else 1)' 2>/dev/null
}

for candidate in .venv/bin/python python3 python3.{14..11} python; do
    if found=$(command -v "$candidate") && has_jax "$found"; then
        exec "$found" scripts/check_accelerator.py "$@"
    fi
done
echo "check_accelerator: no Python 3.11 or newer with JAX was found: ./scripts/setup.sh cuda12 (or cuda13, tpu) makes one" >&2
exit 1
