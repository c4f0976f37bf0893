#!/usr/bin/env bash
# Trials over a grid of constants, one after the other, from the shell.
#
#   ./scripts/sweep.sh MATRIX_LR=0.02,0.04,0.08 DEPTH=2,4 -- --flagfile=configs/cpu.flags --seed=1
#
# Words before -- are constants of train_lib.py with their values; what follows is handed to `autoresearch trial`.
# Each trial is recorded in runs/sweep, or where --tag and --run_dir say; the table of all is printed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'exit 130' INT # else Ctrl-C ends only the trial at hand

usage() {
    echo "usage: $0 NAME=VALUE,VALUE ... [-- FLAG OF autoresearch trial ...]" >&2
    exit 2
}

# The grid as lines of "--set NAME=VALUE --set NAME=VALUE ...".
grid=("")
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [[ $1 =~ ^[A-Z][A-Z0-9_]*=.+$ ]] || usage
    name=${1%%=*}
    IFS=, read -ra values <<<"${1#*=}"
    longer=()
    for point in "${grid[@]}"; do
        for value in "${values[@]}"; do longer+=("$point --set $name=$value"); done
    done
    grid=("${longer[@]}")
    shift
done
[ "${#grid[@]}" -gt 1 ] || [ -n "${grid[0]}" ] || usage
if [ $# -gt 0 ]; then shift; fi

./scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
where=(--tag=sweep)
for word in "$@"; do
    case $word in --tag=* | --run_dir=*) where+=("$word") ;; esac
done
failed=0
for index in "${!grid[@]}"; do
    echo "sweep: $((index + 1)) of ${#grid[@]}:${grid[index]}"
    read -ra settings <<<"${grid[index]}"
    autoresearch trial --tag=sweep "$@" "${settings[@]}" || failed=$((failed + 1))
done
autoresearch results "${where[@]}"
if [ "$failed" -gt 0 ]; then
    echo "sweep: $failed of ${#grid[@]} trials gave no score" >&2
    exit 1
fi
