#!/usr/bin/env bash
# Trials over a grid of constants, from the shell: one after the other, or with --workers=N as many at the same time, each
# on a GPU or TPU chip of its own or on as many cores each (auto: one for each GPU or chip).
#
#   ./scripts/sweep.sh [--workers=N|auto] MATRIX_LR=0.02,0.04,0.08 DEPTH=2,4 -- --flagfile=configs/cpu.flags --seed=1
#
# Other words before -- are constants of train_lib.py with their values; what follows is handed to `autoresearch trial`.
# Each trial is recorded with --tag=sweep, or with a --tag that follows --, even if a flag file has another; the table of
# all is printed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'exit 130' INT # else Ctrl-C ends only the trial at hand

usage() {
    echo "usage: $0 [--workers=N|auto] NAME=VALUE,VALUE ... [-- FLAG OF autoresearch trial ...]" >&2
    exit 2
}

# The grid as lines of "--set NAME=VALUE --set NAME=VALUE ...".
grid=("") workers=1
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    if [[ $1 == --workers=* ]]; then
        workers=${1#*=}
        shift
        continue
    fi
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
places=(env)
if [ "$workers" != 1 ]; then
    listed=$(python scripts/sweep_places.py "$workers" "$@")
    mapfile -t places <<<"$listed"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

# The trial of a point of the grid, behind the words of a place; the tag comes last, since the last one counts.
measure() {
    local settings place
    read -ra settings <<<"${grid[$1]}"
    read -ra place <<<"$2"
    shift 2
    exec "${place[@]}" autoresearch trial "$@" "${settings[@]}" "${tag[@]}"
}

announce() {
    echo "sweep: $(($1 + 1)) of ${#grid[@]}:${grid[$1]}"
}

# Waits for the trial in a place, and shows what it printed.
finish() {
    wait "${process_of[$1]}" || failed=$((failed + 1))
    announce "${index_of[$1]}"
    tee -a "$scratch/said" <"$scratch/$1"
    unset "process_of[$1]"
}

process_of=() index_of=()
for index in "${!grid[@]}"; do
    if [ "${#places[@]}" = 1 ]; then
        announce "$index"
        (measure "$index" "${places[0]}" "$@") | tee -a "$scratch/said" || failed=$((failed + 1))
        continue
    fi
    # those in the background do not hear Ctrl-C
    trap 'kill "${process_of[@]}" 2>/dev/null || true; exit 130' INT
    free=""
    while [ -z "$free" ]; do
        for number in "${!places[@]}"; do
            if [ -n "${process_of[number]:-}" ]; then
                if kill -0 "${process_of[number]}" 2>/dev/null; then continue; fi
                finish "$number"
            fi
            free=$number
            break
        done
        [ -n "$free" ] || sleep 0.1
    done
    measure "$index" "${places[free]}" "$@" >"$scratch/$free" 2>&1 &
    process_of[free]=$! index_of[free]=$index
    # the unit of the attended clock is measured by the first trial on a CPU, for all of them
    if [ "$index" = 0 ] && [[ ${places[0]} == taskset* ]]; then finish "$free"; fi
done
for number in "${!process_of[@]}"; do finish "$number"; done
# Where it trained: the folder above logs/ in the last line about a trial's log, in text or JSON.
folder=$(sed -nE 's|^ *"?log"?: *"?(.*)/logs/[^/"]*"?,?$|\1|p' "$scratch/said" | tail -n 1)
if [ -n "$folder" ]; then
    autoresearch results --run_dir="$(dirname "$folder")" --tag="$(basename "$folder")"
fi
if [ "$failed" -gt 0 ]; then
    echo "sweep: $failed of ${#grid[@]} trials gave no score" >&2
    exit 1
fi
