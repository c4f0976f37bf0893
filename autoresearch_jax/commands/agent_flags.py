"""Flags of the proposer that calls a coding agent, and what is looked at before it is ever called."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from autoresearch_jax.engine.git import Git
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.command import DEFAULT_SECONDS, Agent
from autoresearch_jax.sandbox.process import describe_exit
from autoresearch_jax.sanitize import clean_line

SHELL = "/bin/sh"
SHELL_SECONDS = 10.0  # within which it has parsed a line
_SHELL_CHARACTERS = set("|&;<>()$`\\\"'*?[]#=%!{}")  # what a shell makes something else of than a word


def define_agent_flags(flag_values: flags.FlagValues) -> None:
    """Defines --agent_command and --agent_seconds."""
    flags.DEFINE_string(
        "agent_command",
        None,
        "line of shell that starts a coding agent in a copy of the champion's files; it reads BRIEF.md and changes the "
        "training file; it has your rights, network and environment",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "agent_seconds", DEFAULT_SECONDS, "time limit of the agent for one proposal", flag_values=flag_values
    )


def agent_options(flag_values: flags.FlagValues) -> Agent | None:
    """How the agent is to be called; None without a command.

    Raises:
      UsageError: a limit makes no sense.
    """
    if not (flag_values.agent_command or "").strip():
        return None
    if not flag_values.agent_seconds > 0:
        raise UsageError(f"--agent_seconds={flag_values.agent_seconds:g}: the agent needs some time, such as 600")
    return Agent(
        flag_values.agent_command, flag_values.agent_seconds, flag_values.brief_tokens, flag_values.repair_rounds
    )


def missing_command(command: str, editable: Path, environment: Mapping[str, str]) -> str | None:
    """Why the first word of a line of shell cannot be run, where that is plain to see; None otherwise."""
    parsed = _ask_shell(["-n", "-c", command], environment)
    if parsed is not None and parsed.returncode:
        said = clean_line(parsed.stderr) or describe_exit(parsed.returncode)
        return f"{clean_line(command)}: no line of shell: {said}"
    words = command.split(maxsplit=1)
    if not words or set(words[0]) & _SHELL_CHARACTERS or (words[1:] and words[1].startswith("(")):
        return None
    word = words[0]
    if "/" not in word or word.startswith(("/", "~")):
        expanded = os.path.expanduser(word)
        if shutil.which(expanded, path=environment.get("PATH")) is None and not _is_the_shells(word, environment):
            return f"{word}: no such program: install it, or give its whole path"
        return None
    if not Git(editable.resolve().parent, environment).succeeds("ls-files", "--error-unmatch", "--", word):
        return (
            f"{word} is not in the repository beside {editable.name}, and the command runs in a copy of what git "
            "tracks: give the whole path, or commit it"
        )
    return None


def _is_the_shells(word: str, environment: Mapping[str, str]) -> bool:
    """True of what the shell does itself, such as `trap`, and where it cannot be asked."""
    answer = _ask_shell(["-c", 'command -v -- "$1"', SHELL, word], environment)
    return answer is None or answer.returncode == 0


def _ask_shell(arguments: Sequence[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str] | None":
    """What the shell that will run the command says; None if it says nothing."""
    try:
        return subprocess.run(
            [SHELL, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SHELL_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
