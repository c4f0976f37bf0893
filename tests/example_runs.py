"""What tests of the examples share: a copy of one in a repository of its own, and commands in it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repositories import git

EXAMPLES = Path(__file__).parent.parent / "examples"
AUTORESEARCH = (sys.executable, "-m", "autoresearch_jax.cli")


def copy_of(name: str, folder: Path) -> Path:
    """Copies an example to where its flag file expects it, without its data."""
    ignored = shutil.ignore_patterns("data", "__pycache__")
    return shutil.copytree(EXAMPLES / name, folder / "examples" / name, ignore=ignored)


def call(command: Sequence[str], folder: Path) -> str:
    """The output of a command that must not fail."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def three_experiments(name: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Commits what is in a folder, has three experiments of an example there, and returns the figures of the run."""
    for words in ("init -q -b main", "add examples", "commit -qm start"):
        git(folder, *words.split())
    run = [*AUTORESEARCH, "run", f"--flagfile=examples/{name}/run.flags", "--experiments=3", "--seed=1", *flags]
    call(run, folder)
    status = json.loads(call([*AUTORESEARCH, "status", f"--tag={name}", "--format=json"], folder))
    assert status["experiments"] == 3
    return status


def invalid_trial(name: str, folder: Path) -> str:
    """What `autoresearch trial` says of an example's asset as it is now, which is INVALID."""
    command = [*AUTORESEARCH, "trial", f"--flagfile=examples/{name}/run.flags"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "invalid" in done.stdout
    return done.stdout + done.stderr
