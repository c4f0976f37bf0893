#!/usr/bin/env bash
# What each of eight devices holds of the training state, by mesh, and how far ten steps are from those of one device.
# Host devices on a CPU: bytes and losses are an accelerator's, speed is not and is not measured. About three minutes.
#
#   ./scripts/bench_mesh.sh
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export TF_CPP_MIN_LOG_LEVEL=2  # else XLA warns of each array that it moves to another cut
exec .venv/bin/python scripts/bench_mesh.py
