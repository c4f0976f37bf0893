#!/usr/bin/env bash
# What the jobs in configs/slurm/ run: prepares the dataset, runs the loop, and asks for the next job when the time is up.
#
#   ./scripts/slurm_night.sh [--store=PLACE] -- FLAG OF autoresearch run ...
#
# SIGUSR1, which Slurm sends two minutes before the end (`--signal=B:USR1@120`): the run ends, and the job is queued again
# under its number. SIGTERM (scancel, a preemption): the run ends. Words are those of saved_run.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

again="" run=""
trap 'again=yes; kill -TERM "$run"' USR1
trap 'kill -TERM "$run"' TERM INT
./scripts/saved_run.sh "$@" &
run=$!
status=0
wait "$run" || status=$?
while kill -0 "$run" 2>/dev/null; do # a signal ended the wait, not the run
    status=0
    wait "$run" || status=$?
done
if [ -n "$again" ]; then
    echo "slurm_night: the time is up: queued again" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
