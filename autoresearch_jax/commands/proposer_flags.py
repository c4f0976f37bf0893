"""Flags of who proposes, and the proposer that they ask for."""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from absl import flags

from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import Proposer
from autoresearch_jax.proposers.briefing import BYTES_PER_TOKEN, DEFAULT_TOKENS, count_tokens, essential_text
from autoresearch_jax.proposers.command import DEFAULT_SECONDS, Agent, CommandProposer
from autoresearch_jax.proposers.optuna import OptunaProposer
from autoresearch_jax.search.git import Git
from autoresearch_jax.search.run_folder import RunFolder
from autoresearch_jax.search.workspace import Workspace

PROPOSERS = ("optuna", "command")
INSTRUCTION_TOKENS = 1000  # kept free for our own words
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


def define_proposer_flags(flag_values: flags.FlagValues) -> None:
    """Defines --proposer and what belongs to one of them."""
    flags.DEFINE_enum(
        "proposer",
        "optuna",
        list(PROPOSERS),
        "who proposes: optuna moves the constants of program.md's table; command calls --agent_command",
        flag_values=flag_values,
    )
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
    flags.DEFINE_integer(
        "brief_tokens",
        DEFAULT_TOKENS,
        f"length of the brief for an agent, a token counted as {BYTES_PER_TOKEN} bytes",
        flag_values=flag_values,
    )


def agent_options(flag_values: flags.FlagValues) -> Agent | None:
    """How the agent is to be called; None for a proposer without one.

    Raises:
      UsageError: there is no command, or a limit that makes no sense.
    """
    if flag_values.proposer != "command":
        return None
    if not (flag_values.agent_command or "").strip():
        raise UsageError("--proposer=command needs --agent_command='...', the line of shell that starts your agent")
    if not flag_values.agent_seconds > 0:
        raise UsageError(f"--agent_seconds={flag_values.agent_seconds:g}: the agent needs some time, such as 600")
    return Agent(flag_values.agent_command, flag_values.agent_seconds, flag_values.brief_tokens)


def check_agent(agent: Agent, editable: Path, program: str, source: str, environment: Mapping[str, str]) -> None:
    """Finds what would make every proposal fail, before anything is measured.

    Args:
      agent: how it is to be called.
      editable: the training file in the user's checkout.
      program: text of program.md.
      source: the champion's text.
      environment: of this process.

    Raises:
      UsageError: the command is not there, or the brief has no room.
    """
    problem = missing_command(agent.command, editable, environment)
    if problem is not None:
        raise UsageError(f"--agent_command: {problem}")
    needed = count_tokens(essential_text(program, source)) + INSTRUCTION_TOKENS
    if needed > agent.brief_tokens:
        raise UsageError(
            f"--brief_tokens={agent.brief_tokens}: program.md and {editable.name} alone take {needed}: set twice that"
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


def make_proposer(
    name: str, agent: Agent | None, workspace: Workspace, folder: RunFolder, environment: Mapping[str, str]
) -> Proposer:
    """The proposer of a name in `PROPOSERS`."""
    if name == "optuna":
        return OptunaProposer()
    assert agent is not None, "agent_options sees to it"

    def copy_files(target: Path) -> None:
        """What the run's branch holds, which is the champion's commit."""
        git = Git(workspace.folder, environment)
        git.text("checkout-index", "--all", "--force", f"--prefix={target}/")

    return CommandProposer(agent, workspace.editable, copy_files, folder.log_dir, environment)
