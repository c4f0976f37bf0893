"""Lines of shell: what is wrong with the one that starts a user's agent, and the one by which it checks a text."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.commands.options import list_flags
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.proposers.command import CHECK
from autoresearch_jax.sanitize import clean_line

_CHECK_PATHS = ("cache_dir", "data_dir", "compile_cache", "program")  # of `run`, which `check` takes over as they are
SHELL = "/bin/sh"
SHELL_SECONDS = 10.0  # within which it has parsed a line
_SHELL_CHARACTERS = set("|&;<>()$`\\\"'*?[]#=%!{}")  # a word that has one is the shell's to expand


def check_command(folder: RunFolder, options: Any) -> str:
    """How a text is checked as a run with these options would, from any folder; the file's name comes after it."""
    where = [f"--run_dir={folder.path.parent.absolute()}", f"--tag={folder.path.name}"]
    for flag in list_flags(options):
        if flag.name in _CHECK_PATHS and flag.value and not Path(flag.value).is_absolute():
            where.append(f"--{flag.name}={Path(flag.value).absolute()}")
    return f"{CHECK} {shlex.join(where)}"


def missing_command(command: str, editable: Path, environment: Mapping[str, str]) -> str | None:
    """Why the first word of a line of shell cannot be run, where that is plain to see; None otherwise."""
    if said := _shell_complaint(environment, "-n", "-c", command):
        return f"{clean_line(command)}: no line of shell: {said}"
    if _is_quoted_as_one(command, environment):
        return f"{clean_line(command)}: the quotes make one word of it: leave them out, as a flag file needs none"
    word, *rest = command.split(maxsplit=1)
    if set(word) & _SHELL_CHARACTERS or "".join(rest).startswith("("):
        return None
    if "/" in word and not word.startswith(("/", "~")):
        if Git(editable.resolve().parent, environment).succeeds("ls-files", "--error-unmatch", "--", word):
            return None
        return (
            f"{word} is not in the repository beside {editable.name}, and the command runs in a copy of what git "
            "tracks: give the whole path, or commit it"
        )
    if shutil.which(os.path.expanduser(word), path=environment.get("PATH")) is not None:
        return None
    is_builtin = not _shell_complaint(environment, "-c", 'command -v -- "$1"', SHELL, word)  # such as `trap`
    return None if is_builtin else f"{word}: no such program: install it, or give its whole path"


def _is_quoted_as_one(command: str, environment: Mapping[str, str]) -> bool:
    """Whether all of a command stands in quotes that a shell would have taken away, and is no program's name."""
    try:
        words = shlex.split(command)
    except ValueError:  # such as an apostrophe in a comment
        return False
    is_one = len(words) == 1 and command[0] in "'\"" and " " in words[0].strip()
    return is_one and shutil.which(words[0], path=environment.get("PATH")) is None


def _shell_complaint(environment: Mapping[str, str], *arguments: str) -> str:
    """What the shell says where it fails; empty where it does not."""
    try:
        result = subprocess.run(
            [SHELL, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SHELL_SECONDS,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return (clean_line(result.stderr) or f"status {result.returncode}") if result.returncode else ""
