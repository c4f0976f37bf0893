#!/usr/bin/env bash
# The training step beside the same model in PyTorch and in plain JAX: tokens per second, model FLOP/s, share of the
# machine's matrix-multiply ceiling, compile time, peak memory; all in one run, in turn. About ten minutes on two
# cores that do nothing else.
#
#   ./scripts/bench_step.sh [--quick] [--config=default|256|all] [--rounds=N] [--turn_seconds=S] [--without_torch]
#
# PyTorch comes with nothing of ours: .venv/bin/python -m pip install torch==2.13.0
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec python scripts/bench_step.py "$@"
