#!/usr/bin/env bash
# Peers that share findings: how long one takes to arrive, with notices and by polling, what is refused, what a peer costs;
# then, simulated, what adoption gains and what a liar costs. In a network of its own with nothing but loopback: real git
# over git daemon, real ssh keys, zenoh with TLS. 20 minutes on two idle cores.
#
#   ./scripts/bench_swarm.sh [--quick]       needs root, for the network; and ./scripts/setup.sh swarm
#   ./scripts/bench_swarm.sh --calm          without the flood, with notices only: 5 minutes
#   ./scripts/bench_swarm.sh --simulated [--nights=5] [--correlation=0.7] [--seed=0]    adoption alone: 8 minutes
#   ./scripts/bench_swarm.sh --two [--minutes=10] [--seed=0]    two peers that train the real model beside each other
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
case "${1:-}" in
  --simulated) exec python scripts/bench_adoption.py "${@:2}" ;;
  --two) exec python scripts/bench_swarm_peers.py "${@:2}" ;;
esac
measured="$(mktemp)"
trap 'rm -f "$measured"' EXIT
unshare --net --pid --fork --mount-proc --kill-child python scripts/bench_swarm.py "$@" | tee "$measured"
[[ "$*" == *--calm* ]] && exit
python scripts/bench_adoption.py "$([[ "$*" == *--quick* ]] && echo --nights=1 || echo --nights=5)" | tee -a "$measured"
echo
for figure in arrival_seconds arrival_seconds_polling stranger_findings liar_run_share adoption_gain_ratio; do
  grep "^$figure:" "$measured"
done
