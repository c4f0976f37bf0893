"""How tests call `autoresearch doctor`, and read what it says."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import autoresearch_jax
from autoresearch_jax.cli import main

ATTEMPTS = {
    *("read_your_files", "read_dataset", "read_run_folder", "read_stdlib", "read_environment", "write_elsewhere"),
    *("open_connection", "signal_process", "leave_daemon", "exceed_memory", "exceed_cpu_time", "fork_bomb"),
    *("fill_disk", "fill_log", "run_for_ever"),
}
ROOT = Path(autoresearch_jax.__file__).parent.parent
KEY = "AIza-xq7Vrr2-mmK9"
Doctor = Callable[..., tuple[int, dict[str, str]]]


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def lines(output: str) -> dict[str, str]:
    """What stands on each `key: value` line; headings and empty lines left out."""
    pairs = [line.split(":", 1) for line in output.splitlines() if line and not line.startswith("[")]
    assert len({name for name, _ in pairs}) == len(pairs), "names are unique"
    return {name: value.strip() for name, value in pairs}


def follow(line: str) -> None:
    """Does what a line says helps."""
    for command in line.split("; ")[1].split(" && "):
        words = shlex.split(command)
        if words[0] == "autoresearch":
            assert main(words[1:]) == 0
        else:
            subprocess.run(words, check=True)


def in_own_mounts(commands: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command after some of shell in a mount namespace of its own, where one can be had."""
    unshare = ["unshare", "--mount", "sh", "-ec"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    script = f'{commands}\nexec "$0" -m autoresearch_jax.cli doctor "$@"'
    return subprocess.run([*unshare, script, sys.executable, *words], capture_output=True, text=True)
