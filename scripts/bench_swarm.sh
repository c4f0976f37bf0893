#!/usr/bin/env bash
# Peers that share findings: how long one takes to arrive, with notices and by polling, what is refused, what a peer costs.
# In a network of its own with nothing but loopback: real git over git daemon, real ssh keys, zenoh with TLS. 12 minutes.
#
#   ./scripts/bench_swarm.sh [--quick]       needs root, for the network; and ./scripts/setup.sh swarm
#   ./scripts/bench_swarm.sh --calm          without the flood, with notices only: 5 minutes
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
exec unshare --net --pid --fork --mount-proc --kill-child python scripts/bench_swarm.py "$@"
