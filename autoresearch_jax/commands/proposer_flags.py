"""Flags of who proposes, and the proposer that they ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.agent_flags import agent_options, define_agent_flags, missing_command
from autoresearch_jax.commands.gemini_flags import (
    check_gemini_flags,
    define_gemini_flags,
    gemini_options,
    make_gemini,
    require_price,
    require_room,
)
from autoresearch_jax.commands.run_flags import named_run
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.program import Program
from autoresearch_jax.engine.proposals import read_recorded
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import Asking
from autoresearch_jax.engine.stopping import Limit
from autoresearch_jax.engine.training_file import rebase
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, DEFAULT_CATEGORIES, NO_PROPOSAL, Examine, Proposer
from autoresearch_jax.proposers.briefing import BYTES_PER_TOKEN, DEFAULT_TOKENS, count_tokens, essential_text
from autoresearch_jax.proposers.command import Agent, CommandProposer
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.hybrid import HybridProposer
from autoresearch_jax.proposers.llm_budget import GeminiOptions
from autoresearch_jax.proposers.replay import ReplayProposer

PROPOSERS = ("constants", "gemini", "command", "hybrid", "replay")
INSTRUCTION_TOKENS = 1000  # kept free for our own words
SPENDING_LIMITS = ("max_dollars", "max_tokens", "max_requests")
UNKNOWN_COST = "what --agent_command costs nobody knows here, so no such limit can be kept: leave it out"
DEFAULT_PLATEAU = 12  # discards in a row; a night on one GPU is about 100 experiments


@dataclass(frozen=True)
class ProposerOptions:
    """Who proposes.

    Attributes:
      name: one of `PROPOSERS`.
      agent: how a command is called; None without one.
      gemini: how a model is asked; None without a way to one.
      replay: the run to take proposals from; None but for "replay".
      brief_tokens: length of a brief.
      asking: what of a brief the user chose.
    """

    name: str = "constants"
    agent: Agent | None = None
    gemini: GeminiOptions | None = None
    replay: RunFolder | None = None
    brief_tokens: int = DEFAULT_TOKENS
    asking: Asking = field(default_factory=Asking)

    @property
    def moves_constants_alone(self) -> bool:
        """True if nothing is proposed without program.md's table."""
        return self.name == "constants" or (self.name == "hybrid" and self.agent is None and self.gemini is None)


def define_proposer_flags(flag_values: flags.FlagValues) -> None:
    """Defines --proposer and what belongs to one of them."""
    flags.DEFINE_enum(
        "proposer",
        "constants",
        list(PROPOSERS),
        "who proposes: constants moves those of program.md's table; gemini asks a model; command calls "
        "--agent_command; hybrid shares the experiments between constants and one of these; replay repeats --replay",
        flag_values=flag_values,
    )
    define_agent_flags(flag_values)
    define_gemini_flags(flag_values)
    flags.DEFINE_string(
        "replay",
        None,
        "run, by its tag or its folder, whose proposals --proposer=replay repeats",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "brief_tokens",
        DEFAULT_TOKENS,
        f"length of the brief for an agent, a token counted as {BYTES_PER_TOKEN} bytes",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "plateau",
        DEFAULT_PLATEAU,
        "after so many discards in a row an agent is told to change the structure; 0 for never",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "categories",
        list(DEFAULT_CATEGORIES),
        "kinds of change that an agent may name, and that hybrid asks it for in turn",
        flag_values=flag_values,
    )


def proposer_options(flag_values: flags.FlagValues, environment: Mapping[str, str]) -> ProposerOptions:
    """Who is to propose, as the flags and the environment say.

    Raises:
      UsageError: something that the proposer needs is missing, or makes no sense.
    """
    name = flag_values.proposer
    check_gemini_flags(flag_values)
    if name in ("constants", "gemini") and flag_values.agent_command:
        raise UsageError(
            f"--agent_command is called by --proposer=command or hybrid, not by {name}: choose one of these"
        )
    agent, gemini = None, None
    if name in ("command", "hybrid"):
        agent = agent_options(flag_values)
    if name == "gemini" or (name == "hybrid" and agent is None):
        gemini = gemini_options(flag_values, environment, required=name == "gemini")
    limits = [flag for flag in SPENDING_LIMITS if flag_values[flag].value is not None]
    if limits and agent is not None:
        raise UsageError(f"--{limits[0]} limits what a Gemini model takes: {UNKNOWN_COST}")
    if limits and name not in ("gemini", "hybrid"):
        raise UsageError(
            f"--{limits[0]} limits what a Gemini model takes, and --proposer={name} asks none: leave it out"
        )
    if name == "command" and agent is None:
        raise UsageError("--proposer=command needs --agent_command='...', the line of shell that starts your agent")
    if (name == "replay") != (flag_values.replay is not None):
        raise UsageError("--proposer=replay and --replay=RUN, the run whose proposals it repeats, go together")
    categories = [words for word in flag_values.categories if (words := " ".join(word.lower().split()))]
    if not categories:
        raise UsageError(f"--categories: name one or more, such as {','.join(DEFAULT_CATEGORIES[:3])}")
    if ours := {CONSTANTS_CATEGORY, NO_PROPOSAL} & set(categories):
        raise UsageError(f"--categories: {min(ours)!r} is a mark of the ledger's own: name it otherwise")
    replay = None if flag_values.replay is None else named_run(flag_values, flag_values.replay)
    if replay is not None and not replay.ledger.is_file():
        raise UsageError(
            f"--replay={flag_values.replay}: no run of that tag in {flag_values.run_dir}, nor a run's folder: name one "
            "that has a ledger.db"
        )
    return ProposerOptions(
        name,
        agent,
        gemini,
        replay,
        flag_values.brief_tokens,
        Asking(tuple(dict.fromkeys(categories)), flag_values.plateau or None),
    )


def check_proposer(
    options: ProposerOptions, editable: Path, program: Program, source: str, environment: Mapping[str, str]
) -> None:
    """Finds what would make every proposal fail, before anything is measured.

    Args:
      options: who proposes.
      editable: the training file in the user's checkout.
      program: program.md.
      source: the champion's text.
      environment: of this process.

    Raises:
      UsageError: the command is not there, the brief has no room, or a limit cannot be kept.
    """
    if options.moves_constants_alone and not program.constants:
        raise UsageError(
            f'{program.path}: no table of constants under "You may change", which --proposer={options.name} needs'
            + ("" if options.name == "constants" else " where there is no agent")
        )
    if options.agent is not None:
        problem = missing_command(options.agent.command, editable, environment)
        if problem is not None:
            raise UsageError(f"--agent_command: {problem}")
    if options.agent is None and options.gemini is None:
        return
    needed = count_tokens(essential_text(program.text, source)) + INSTRUCTION_TOKENS
    if needed > options.brief_tokens:
        raise UsageError(
            f"--brief_tokens={options.brief_tokens}: {program.path.name} and {editable.name} alone take {needed}: set "
            "twice that"
        )
    if options.gemini is not None:
        require_room(options.gemini, needed)
    for stop in program.stops:
        if isinstance(stop, Limit) and stop.quantity == "dollars":
            where = f'{program.path}: "{stop.words}"'
            if options.gemini is None:
                raise UsageError(f"{where}: {UNKNOWN_COST}")
            require_price(options.gemini, where)


def make_proposer(
    options: ProposerOptions,
    workspace: Workspace,
    folder: RunFolder,
    environment: Mapping[str, str],
    examine: Examine,
    notice: Callable[[str], None],
) -> Proposer:
    """Who proposes.

    Args:
      options: from `proposer_options`.
      workspace: of the run.
      folder: of the run.
      environment: of this process, for an agent's command.
      examine: tries a text before it is proposed.
      notice: told what the user should know.

    Raises:
      UserError: the model is not there, or does not let us in.
    """
    match options.name:
        case "constants":
            return ConstantsProposer()
        case "replay":
            assert options.replay is not None, "proposer_options sees to it"
            return ReplayProposer(
                read_recorded(options.replay), lambda made, base, brief: rebase(made, base, brief, workspace.merge)
            )
    agent = _make_agent(options, workspace, folder, environment, examine, notice)
    if options.name == "hybrid":
        return HybridProposer(ConstantsProposer(), agent, notice)
    assert agent is not None, "proposer_options sees to it"
    return agent


def _make_agent(
    options: ProposerOptions,
    workspace: Workspace,
    folder: RunFolder,
    environment: Mapping[str, str],
    examine: Examine,
    notice: Callable[[str], None],
) -> Proposer | None:
    if options.agent is not None:

        def copy_files(target: Path) -> None:
            """What the run's branch holds, which is the champion's commit."""
            git = Git(workspace.folder, environment)
            git.text("checkout-index", "--all", "--force", f"--prefix={target}/")

        agent = replace(options.agent, brief_tokens=options.brief_tokens)
        return CommandProposer(agent, workspace.editable, copy_files, folder.llm_dir, environment, examine=examine)
    if options.gemini is not None:
        gemini = make_gemini(
            options.gemini,
            editable_name=Path(workspace.editable).name,
            examine=examine,
            llm_dir=folder.llm_dir,
            brief_tokens=options.brief_tokens,
        )
        if (warning := gemini.check_model()) is not None:
            notice(warning)
        return gemini
    return None
