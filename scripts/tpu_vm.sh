#!/usr/bin/env bash
# A Cloud TPU VM or pod slice, from your own machine: asks for it, sets this checkout up on its hosts, runs the loop there,
# and after a preemption does all of it again from the copy in --store. See docs/guide/clusters.md.
#
#   ./scripts/tpu_vm.sh keep NAME --accelerator_type=v5litepod-4 --runtime_version=v2-alpha-tpuv5-lite --spot \
#       --store=gs://BUCKET/FOLDER -- --flagfile=configs/tpu_v5e_4.flags --tag=tonight
#
#   keep     create, setup, start; looks every --interval seconds (60); creates it anew when it was preempted, starts the
#            run again when it was stopped; ends with the run, --delete deletes the VM then. May be typed again at any time
#   create   a queued resource NAME with a TPU VM NAME: --accelerator_type, --runtime_version, [--spot],
#            [--create_flag=FLAG of gcloud, repeatable]; returns at once, `state` tells when it is there
#   setup    copies the last commit of this checkout to all hosts and installs it: [--extras=gs,...], [--env_file=FILE of
#            variables such as keys]
#   prepare  -- FLAG ...     makes the dataset on all hosts
#   start    -- FLAG ...     autoresearch run in the background of host 0, with --num_hosts=N of N hosts: [--store=PLACE],
#            [--save_every=SECONDS]
#   state    of the resource, the VM and the run
#   log      the last lines that the run printed
#   stop     ends the run; the same `start` goes on
#   ssh      -- WORD ...     any command in the checkout on all hosts, or those of --worker=0,2-3
#   delete   the VM and its disk
#
# All take --zone=ZONE, --project=PROJECT, --folder=NAME of the checkout on the hosts. Needs gcloud, logged in.
# Tested with a stand-in for gcloud; not run on a TPU.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "tpu_vm: $1" >&2
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

say() {
    echo "tpu_vm: $1" >&2
}

[ $# -ge 2 ] || usage "expected a command and the name of a TPU VM"
action=$1 name=$2
shift 2
where=(--quiet) more=(--quiet) extras=(tpu)
patience=(--ssh-flag=-oConnectTimeout=20 --ssh-flag=-oServerAliveInterval=15) # a VM that is gone does not answer
accelerator="" runtime="" store="" save_every=300 env_file="" worker=all folder=autoresearch_jax interval=60 delete=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    value=${1#*=}
    case $1 in
        --zone=*) where+=("--zone=$value") ;;
        --project=*) where+=("--project=$value") ;;
        --folder=*) folder=$value ;;
        --worker=*) worker=$value ;;
        --accelerator_type=*) accelerator=$value ;;
        --runtime_version=*) runtime=$value ;;
        --spot) more+=(--spot) ;;
        --create_flag=*) more+=("$value") ;;
        --extras=*) IFS=, read -ra words <<<"$value" && extras+=("${words[@]}") ;;
        --env_file=*) env_file=$value ;;
        --store=*) store=$value ;;
        --save_every=*) save_every=$value ;;
        --interval=*) interval=$value ;;
        --delete) delete=yes ;;
        *) usage "unknown word $1" ;;
    esac
    shift
done
if [ $# -gt 0 ]; then shift; fi
case $store in
    gs://*) extras+=(gs) ;;
    s3://*) extras+=(s3) ;;
esac

# Words as a shell on the host reads them.
quoted() {
    printf '%q ' "$@"
}

# A command line in the checkout on some hosts; what it prints is printed.
on() {
    gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "${patience[@]}" --worker="$1" --command="cd $(quoted "$folder") && $2"
}

# A file into the home on all hosts.
copy() {
    gcloud compute tpus tpu-vm scp "$1" "$name:$2" "${where[@]}" --worker=all
}

# What gcloud tells of a resource: its state, none if there is none of that name, unknown if it cannot be asked.
ask() {
    local said
    if said=$(gcloud compute tpus "$1" describe "$name" "${where[@]}" --format="value($2)" 2>&1); then
        echo "${said##*$'\n'}"
    elif [[ $said == *NOT_FOUND* || $said == *"not found"* ]]; then
        echo none
    else
        say "$said"
        echo unknown
    fi
}

require_kind() {
    if [ -z "$accelerator" ] || [ -z "$runtime" ]; then
        usage "$action needs --accelerator_type and --runtime_version"
    fi
}

create() {
    gcloud compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" --async \
        --accelerator-type="$accelerator" --runtime-version="$runtime" "${more[@]}"
}

remove() {
    gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force
}

set_up() {
    local bundle
    if ! git diff --quiet HEAD; then
        say "the hosts get the last commit, without what is changed here since"
    fi
    bundle=$(mktemp)
    git bundle create --quiet "$bundle" HEAD || return 1
    copy "$bundle" autoresearch.bundle || return 1
    rm "$bundle"
    if [ -n "$env_file" ]; then copy "$env_file" .autoresearch_env || return 1; fi
    # an image may have Python 3.10: uv brings a newer one
    gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "${patience[@]}" --worker=all --command="set -e
        if [ -e .autoresearch_env ]; then chmod 600 .autoresearch_env; fi
        git init --quiet $(quoted "$folder")
        cd $(quoted "$folder")
        git fetch --quiet ../autoresearch.bundle HEAD
        git checkout --quiet --detach FETCH_HEAD
        export PATH=\$HOME/.local/bin:\$PATH
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || command -v uv >/dev/null ||
            python3 -m pip install --quiet --user uv
        ./scripts/setup.sh $(quoted "${extras[@]}")"
}

start() {
    local word hosts=1 words=(--save_every="$save_every")
    if [ -n "$store" ]; then words+=(--store="$store"); fi
    for word in "$@"; do
        if [[ $word =~ ^--?num_hosts=([0-9]+)$ ]]; then hosts=${BASH_REMATCH[1]}; fi
    done
    # only host 0 has a run to keep
    for ((word = 1; word < hosts; word++)); do
        on "$word" "./scripts/background.sh stop run && ./scripts/background.sh start run ./scripts/saved_run.sh $(
            quoted -- "$@"
        )" || return 1
    done
    on 0 "./scripts/background.sh start run ./scripts/saved_run.sh $(quoted "${words[@]}" -- "$@")"
}

run_state() {
    on 0 "./scripts/background.sh state run" 2>/dev/null | tail -n 1 | tr -d '\r'
}

# One look at the run on a VM that is there; sets `over` to its exit status once it has ended.
look() {
    local state
    state=$(run_state) || state=""
    case $state in
        running) failures=0 ;;
        "ended "*)
            over=${state#ended }
            on 0 "./scripts/background.sh log run" || true
            ;;
        *) # nothing is set up yet, or the machine was shut down meanwhile
            say "setting $name up"
            if set_up && start "$@"; then
                say "the run goes on, on $name"
            else
                failures=$((failures + 1))
            fi
            ;;
    esac
}

keep() {
    local resource machine before="" over="" failures=0
    [ -n "$store" ] || usage "keep needs --store: the disk of the VM is lost with it"
    while [ -z "$over" ]; do
        resource=$(ask queued-resources state.state)
        if [ "$resource" != "$before" ]; then say "$name: ${resource/none/not there}"; fi
        before=$resource
        case $resource in
            none) create || failures=$((failures + 1)) ;;
            SUSPENDED) remove || true ;;
            FAILED)
                say "gcloud could not make it: $(ask queued-resources state.failedData.error.message)"
                return 1
                ;;
            ACTIVE)
                machine=$(ask tpu-vm state)
                case $machine in
                    READY) look "$@" ;;
                    PREEMPTED | TERMINATED | none)
                        say "$name was preempted"
                        remove || true
                        ;;
                esac
                ;;
        esac
        if [ "$failures" -ge 3 ]; then
            say "three times in a row it failed: see above; what there is of $name still costs"
            return 1
        fi
        [ -n "$over" ] || sleep "$interval"
    done
    say "the run has ended with exit status $over; its copy is $store"
    if [ -n "$delete" ]; then
        remove
    else
        say "$name is still there, and costs: ./scripts/tpu_vm.sh delete $name"
    fi
    return "$over"
}

case $action in
    keep)
        require_kind
        keep "$@"
        ;;
    create)
        require_kind
        create
        ;;
    setup) set_up ;;
    prepare) on all ".venv/bin/autoresearch prepare $(quoted "$@")" ;;
    start) start "$@" ;;
    state)
        echo "resource: $(ask queued-resources state.state)"
        echo "vm: $(ask tpu-vm state)"
        echo "run: $(run_state || echo unknown)"
        ;;
    log) on 0 "./scripts/background.sh log run" ;;
    stop) on all "./scripts/background.sh stop run" ;;
    ssh)
        [ $# -gt 0 ] || usage "ssh needs a command after --"
        on "$worker" "export PATH=\$PWD/.venv/bin:\$PATH && $(quoted "$@")"
        ;;
    delete) remove ;;
    *) usage "unknown command $action" ;;
esac
