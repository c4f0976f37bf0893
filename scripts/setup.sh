#!/usr/bin/env bash
# Makes .venv with the newest CPython that works, and installs the project into it in editable mode.
#
#   ./scripts/setup.sh [EXTRA ...]      extras: dev, cuda12, cuda13, tpu, gs, s3, ray, mcp, swarm, tensorboard, examples
#
# Looks for CPython 3.11 or newer on PATH, among pyenv's versions and through uv. Does nothing when all is in place.
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'exit 130' INT # else Ctrl-C ends only pip, which looks as if this Python did not work

for extra in "$@"; do
    if ! [[ $extra =~ ^[a-z][a-z0-9]*$ ]]; then
        echo "usage: $0 [EXTRA ...]      extras: dev, cuda12, cuda13, tpu, gs, s3, ray, mcp, swarm, tensorboard, examples" >&2
        exit 2
    fi
done
extras=$(IFS=,; echo "$*")
stamp=.venv/.installed-${extras:-base}

# Each usable interpreter as "VERSION PATH", the newest first; of one version the first found.
interpreters() {
    local candidates=() name found
    for name in python3.{14..11} python3 python; do
        if found=$(command -v "$name"); then candidates+=("$found"); fi
    done
    for found in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
        if [ -x "$found" ]; then candidates+=("$found"); fi
    done
    if command -v uv >/dev/null; then
        for name in 3.{14..11}; do
            if found=$(uv python find "$name" 2>/dev/null); then candidates+=("$found"); fi
        done
    fi
    for found in "${candidates[@]}"; do
        # a shim of pyenv may stand for a version that is not there: it fails and is passed over
        "$found" -c '
import sys, sysconfig
usable = sys.version_info >= (3, 11) and sys.version_info.releaselevel == "final"
usable = usable and sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
if usable:
    print("%d.%d.%d" % sys.version_info[:3], sys.executable)' 2>/dev/null || true
    done | sort --version-sort --reverse --stable --key=1,1 --unique
}

# A virtual environment with a pip that can fill it, also where Debian left ensurepip out.
make_environment() {
    rm -rf .venv
    if "$1" -c 'import ensurepip' 2>/dev/null; then
        "$1" -m venv .venv
    elif "$1" -m pip --version >/dev/null 2>&1; then
        "$1" -m venv --without-pip .venv
        "$1" -m pip --quiet --python .venv/bin/python install pip
    else
        return 1
    fi
}

install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable \
        ".${extras:+[$extras]}" || return 1
    # pip compiles on one core. A trial cannot store what it compiles, so all that it may import is compiled here; the
    # rest compiles when it is first used. What some packages bring as a template compiles nowhere.
    .venv/bin/python -m compileall -qq -j 0 \
        -x 'site-packages/(.*/tests/|(alembic|fontTools|google/genai|mypy|mypyc|pip|playwright|plotly|sqlalchemy)/)' \
        autoresearch_jax "$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')" || true
    touch "$stamp"
}

# False for one that came here with a folder that was copied or moved: its commands run the old place's Python.
is_of_this_folder() {
    grep -qsF "$(pwd -P)/.venv/bin/python" .venv/bin/autoresearch
}

if [ -e "$stamp" ] && [ "$stamp" -nt setup.cfg ] && is_of_this_folder; then
    exit 0
fi
if { [ ! -e .venv/bin/autoresearch ] || is_of_this_folder; } && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "setup: adding what .venv lacks" >&2
    install && exit 0
    if is_of_this_folder; then
        echo "setup: pip failed, as it says above, and .venv is as it was: try again, or delete .venv to begin anew" >&2
        exit 1
    fi
fi
while read -r version python; do
    echo "setup: making .venv with CPython $version ($python); the first time takes a few minutes" >&2
    if make_environment "$python" && install; then exit 0; fi
    echo "setup: CPython $version does not work here, trying the next older one" >&2
done < <(interpreters)
if command -v uv >/dev/null; then
    echo "setup: letting uv fetch CPython 3.13" >&2
    rm -rf .venv
    uv venv --quiet --seed --python 3.13 .venv && install && exit 0
fi
echo "setup: no CPython 3.11 or newer with pip was found: install one (on Debian: apt-get install python3 python3-pip)" >&2
exit 1
