#!/usr/bin/env bash
# One command in the background of this machine, that outlives the terminal: a unit of systemd where there is systemd and
# sudo asks no password, else in tmux.
#
#   ./scripts/background.sh start NAME COMMAND [WORD ...]
#   ./scripts/background.sh state NAME     prints none, running, lost (killed), stopped (by a signal, such as of a machine
#                                          that is shut down), or ended and the exit status
#   ./scripts/background.sh stop NAME      SIGTERM; waits until it has ended
#   ./scripts/background.sh log NAME       the last lines of what it printed
#
# Its log and state are in build/background/NAME. A file ~/.autoresearch_env is read first, for variables such as keys.
set -euo pipefail
cd "$(dirname "$0")/.."
TIMEOUT_SECONDS=25 # a spot VM is given 30 s

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[ $# -ge 2 ] || usage
action=$1 name=$2
shift 2
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || usage
folder=$PWD/build/background/$name

is_running() {
    [ -e "$folder/lock" ] && ! flock --nonblock --shared "$folder/lock" true
}

state() {
    if is_running; then
        echo running
    elif [ -e "$folder/state" ]; then
        cat "$folder/state"
    elif [ -e "$folder/lock" ]; then
        echo lost
    else
        echo none
    fi
}

# What systemd or tmux runs: holds the lock as long as the command lives, hands SIGTERM on, notes how it ended.
hold() {
    exec 9>"$folder/lock"
    flock --nonblock 9 || exit 1
    rm -f "$folder/state" "$folder/asked"
    echo $$ >"$folder/pid"
    if [ -r ~/.autoresearch_env ]; then
        set -a
        # shellcheck disable=SC1090
        . ~/.autoresearch_env
        set +a
    fi
    told="" child=""
    trap 'told=yes; kill -TERM "$child" 2>/dev/null || true' TERM INT HUP
    "$@" >>"$folder/log" 2>&1 9>&- &
    child=$!
    status=0
    wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the command
        status=0
        wait "$child" || status=$?
    done
    if [ -n "$told" ] && [ ! -e "$folder/asked" ]; then
        echo stopped >"$folder/state"
    else
        echo "ended $status" >"$folder/state"
    fi
}

start() {
    if is_running; then
        echo "background: $name is running already" >&2
        exit 1
    fi
    mkdir -p "$folder"
    rm -f "$folder/state" "$folder/pid"
    if [ -d /run/systemd/system ] && sudo -n true 2>/dev/null; then
        sudo -n systemd-run --quiet --collect --unit="autoresearch-$name" --uid="$(id -u)" --gid="$(id -g)" \
            --property=KillMode=mixed --property=TimeoutStopSec="$TIMEOUT_SECONDS" --working-directory="$PWD" \
            --setenv=HOME="$HOME" --setenv=PATH="$PATH" "$PWD/scripts/background.sh" hold "$name" "$@"
    elif command -v tmux >/dev/null; then
        printf -v line '%q ' "$PWD/scripts/background.sh" hold "$name" "$@"
        tmux new-session -d -s "autoresearch-$name" "$line"
    else
        echo "background: neither systemd with sudo nor tmux is here: install tmux (Debian: apt-get install tmux)" >&2
        exit 1
    fi
    for _ in {1..200}; do
        if [ -e "$folder/pid" ]; then return; fi
        sleep 0.05
    done
    echo "background: $name did not begin: see systemctl status autoresearch-$name" >&2
    exit 1
}

stop() {
    touch "$folder/asked"
    if is_running; then kill -TERM "$(cat "$folder/pid")"; fi
    while is_running; do sleep 0.1; done
    state
}

case $action in
    start)
        [ $# -ge 1 ] || usage
        start "$@"
        ;;
    hold) hold "$@" ;;
    state) state ;;
    stop)
        [ -e "$folder/lock" ] || { echo none && exit 0; }
        stop
        ;;
    log) tail -n 40 "$folder/log" ;;
    *) usage ;;
esac
