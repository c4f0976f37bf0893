"""Flags of the proposer that calls a coding agent, and what is looked at before it is ever called."""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.command import DEFAULT_SECONDS, Agent
from autoresearch_jax.search.git import Git

# What a shell makes something else of than a word, or does itself.
_SHELL_CHARACTERS = set("|&;<>()$`\\\"'*?[]#=%!{}")
_SHELL_WORDS = (
    "if",
    "for",
    "while",
    "until",
    "case",
    "cd",
    "exec",
    "eval",
    "export",
    "set",
    "ulimit",
    "umask",
    ".",
    ":",
)


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
    try:
        words = shlex.split(command)
    except ValueError as error:
        return f"{command}: no line of shell: {error}"
    word = words[0] if words else ""
    if not word or set(command.split()[0]) & _SHELL_CHARACTERS or word in _SHELL_WORDS:
        return None
    if "/" not in word or word.startswith(("/", "~")):
        expanded = os.path.expanduser(word)
        if shutil.which(expanded, path=environment.get("PATH")) is None:
            return f"{word}: no such program: install it, or give its whole path"
        return None
    if not Git(editable.resolve().parent, environment).succeeds("ls-files", "--error-unmatch", "--", word):
        return (
            f"{word} is not in the repository beside {editable.name}, and the command runs in a copy of what git "
            "tracks: give the whole path, or commit it"
        )
    return None
