#!/usr/bin/env bash
# Trials over a grid of constants, one after the other, from the shell.
#
#   ./scripts/sweep.sh MATRIX_LR=0.02,0.04,0.08 DEPTH=2,4 -- --flagfile=configs/cpu.flags --seed=1
#
# Words before -- are constants of train_lib.py with their values; what follows is handed to `autoresearch trial`.
# Each trial is recorded with --tag=sweep, or with a --tag that follows --, even if a flag file has another; the table of
# all is printed at the end.
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
tag=(--tag=sweep)
for index in $(seq $#); do
    case ${!index} in
        --tag=* | -tag=*) tag=("${!index}") ;;
        --tag | -tag) tag=("${@:index:2}") ;;
    esac
done
said=$(mktemp)
trap 'rm -f "$said"' EXIT
failed=0
for index in "${!grid[@]}"; do
    echo "sweep: $((index + 1)) of ${#grid[@]}:${grid[index]}"
    read -ra settings <<<"${grid[index]}"
    # the tag comes last, since the last one counts
    autoresearch trial "$@" "${settings[@]}" "${tag[@]}" | tee -a "$said" || failed=$((failed + 1))
done
# Where it trained: the folder above logs/ in the last line about a trial's log, in text or JSON.
folder=$(sed -nE 's|^ *"?log"?: *"?(.*)/logs/[^/"]*"?,?$|\1|p' "$said" | tail -n 1)
if [ -n "$folder" ]; then
    autoresearch results --run_dir="$(dirname "$folder")" --tag="$(basename "$folder")"
fi
if [ "$failed" -gt 0 ]; then
    echo "sweep: $failed of ${#grid[@]} trials gave no score" >&2
    exit 1
fi
