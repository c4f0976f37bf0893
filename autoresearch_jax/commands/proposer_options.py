"""Options of who proposes: constants, findings, a Gemini model, your own agent, all in turn, or a recorded run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.commands.agent_command import missing_command
from autoresearch_jax.commands.finding_options import FindingOptions, merge_changes, require_fitting_finding
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.model_options import ModelOptions, key_names, require_price, try_model
from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.engine.briefs import Asking
from autoresearch_jax.engine.limits import Limit
from autoresearch_jax.engine.program import ProgramPage
from autoresearch_jax.engine.proposals import read_recorded
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.waiting import WaitingProposals
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UsageError
from autoresearch_jax.findings.folder import FindingStore, open_library
from autoresearch_jax.proposers.adopting import DEFAULT_SHARE, AdoptingProposer
from autoresearch_jax.proposers.base import (
    CONSTANTS_CATEGORY,
    DEFAULT_CATEGORIES,
    NO_PROPOSAL,
    Examine,
    LimitReached,
    Proposer,
    ServiceObserver,
    rebase,
)
from autoresearch_jax.proposers.briefing import BYTES_PER_TOKEN, DEFAULT_TOKENS, count_tokens, essential_text
from autoresearch_jax.proposers.command import CHECK, Agent, AgentError, CommandProposer
from autoresearch_jax.proposers.ideas import CategoryCounter, IdeasProposer, category_counter, order_of_own
from autoresearch_jax.proposers.llm_budget import GeminiOptions, SpendingLimits, Usage, check_limits
from autoresearch_jax.proposers.replay import ReplayProposer
from autoresearch_jax.proposers.several import MOST_PROPOSALS, SeveralProposer
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.contents import open_own_library
from autoresearch_jax.swarm.membership import SwarmFolder

PROPOSERS = ("hybrid", "constants", "ideas", "gemini", "command", "replay")
BY_HAND = "by hand"  # in place of one of these: nothing is proposed, see commands/try_.py
OWN_TOKENS = 3500  # kept free for our own words and the contract
DEFAULT_PLATEAU = 12  # discards in a row; a night on one GPU is about 100 experiments
UNKNOWN_COST = "what --agent_command costs is not known, so no such limit can be kept: leave it out"


@dataclass(frozen=True)
class ProposerSettings:
    """Who proposes: `name` is one of `PROPOSERS` or `BY_HAND`; what it does not use is None.

    `findings` is the folder of those that are neither shipped nor of peers; None where none are tried nor adopted.
    `proposals` are what an agent makes at a time; None for as many as trials run at the same time. `peers` is the
    folder of what peers found; None where none of it is tried; `adopt_share` the share of the experiments that it may
    take.
    """

    name: str
    agent: Agent | None = None
    gemini: GeminiOptions | None = None
    replay: RunFolder | None = None
    findings: Path | None = None
    brief_tokens: int = DEFAULT_TOKENS
    asking: Asking = field(default_factory=Asking)
    peers: Path | None = None
    proposals: int | None = None
    adopt_share: float = DEFAULT_SHARE

    @property
    def tries_findings(self) -> bool:
        """Whether findings are tried beside those that are adopted from peers."""
        return self.name in ("ideas", "hybrid")


@dataclass(frozen=True)
class ProposerOptions:
    """Who proposes, and what belongs to one of them."""

    proposer: str = option(
        "hybrid",
        "who proposes: constants moves those of program.md's table; ideas tries findings, see `autoresearch findings`; "
        "gemini asks a model; command calls --agent_command; hybrid shares the experiments between constants, ideas "
        "and --agent_command, or a model if a flag asks for one, such as --max_dollars; replay repeats --replay",
        choices=PROPOSERS,
        in_run=InRun.FREE,
    )
    agent_command: str | None = option(
        None,
        "line of shell that starts a coding agent in a copy of the champion's files; it reads BRIEF.md and changes the "
        "training file; it has your rights, network and environment",
        in_run=InRun.FREE,
    )
    agent_seconds: float = option(
        Agent.seconds, "time limit of the agent for one proposal", above=0, hint="such as 600", in_run=InRun.FREE
    )
    proposals_per_call: int | None = option(
        None,
        "proposals that a model or an agent is asked for at a time, unlike each other; the others are measured after "
        f"the first, without another call; by default as many as trials run at the same time, at most {MOST_PROPOSALS}",
        least=1,
        most=MOST_PROPOSALS,
        in_run=InRun.FREE,
    )
    model: ModelOptions = field(default_factory=ModelOptions)
    findings: FindingOptions = field(default_factory=FindingOptions)
    replay: str | None = option(
        None,
        "run, by its tag or its folder, whose proposals --proposer=replay repeats",
        path=True,
        in_run=InRun.FREE,
    )
    brief_tokens: int = option(
        DEFAULT_TOKENS,
        f"length of the brief for an agent, a token counted as {BYTES_PER_TOKEN} bytes",
        in_run=InRun.FREE,
    )
    adopt_share: float = option(
        DEFAULT_SHARE,
        "with --swarm: share of the experiments, from 0 to 1, that may be spent on findings of peers",
        least=0,
        most=1,
        in_run=InRun.FREE,
    )
    plateau: int = option(
        DEFAULT_PLATEAU,
        "discards in a row after which an agent is told to change the structure; 0 for never",
        least=0,
        in_run=InRun.FREE,
    )
    categories: tuple[str, ...] = option(
        tuple(DEFAULT_CATEGORIES),
        "kinds of change that an agent may name, and that hybrid asks it for in turn",
        in_run=InRun.FREE,
    )

    @property
    def unused(self) -> list[str]:
        """Flags that the proposer has no use for."""
        has_agent = self.proposer in ("command", "hybrid")
        asks_model = self.proposer == "gemini" or (self.proposer == "hybrid" and not (self.agent_command or "").strip())
        return [
            *([] if has_agent else ["agent_command"]),
            *([] if has_agent or asks_model else ["proposals_per_call"]),
            *([] if asks_model else self.model.spending_limits),
            *([] if self.proposer == "replay" else ["replay"]),
        ]

    def settings(self, runs: FolderOptions, environment: Mapping[str, str], *, swarm: bool = False) -> ProposerSettings:
        """Who is to propose; with `swarm` findings of peers are tried, too.

        Raises:
          UsageError: something that the proposer needs is missing, or makes no sense.
        """
        name, command = self.proposer, (self.agent_command or "").strip()
        if name in ("constants", "ideas", "gemini") and command:
            raise UsageError(
                f"--agent_command is called by --proposer=command or hybrid, not by {name}: choose one of these"
            )
        agent, gemini = None, None
        if command and name in ("command", "hybrid"):
            agent = Agent(command, self.agent_seconds, self.brief_tokens, self.model.repair_rounds)
        if name == "gemini" or (name == "hybrid" and agent is None):
            gemini = self.model.settings(environment, required=name == "gemini")
        if limits := self.model.spending_limits:
            limit = f"--{limits[0]} limits what a Gemini model takes"
            if agent is not None:
                raise UsageError(f"{limit}: {UNKNOWN_COST}")
            if name not in ("gemini", "hybrid"):
                raise UsageError(f"{limit}, and --proposer={name} asks none: leave it out")
        if name == "command" and agent is None:
            raise UsageError("--proposer=command needs --agent_command='...', the line of shell that starts your agent")
        if (name == "replay") != (self.replay is not None):
            raise UsageError("--proposer=replay and --replay=RUN, the run whose proposals it repeats, go together")
        replay = None if self.replay is None else runs.named(self.replay)
        if replay is not None and not replay.ledger.is_file():
            raise UsageError(
                f"--replay={self.replay}: no run of that tag in {runs.run_dir}, nor a run's folder: name one that has "
                f"a ledger.db{runs.tags('; there are ')}"
            )
        peers = SwarmFolder(Path(runs.run_dir)).findings if swarm and self.adopt_share > 0 else None
        findings = self.findings.folder(runs) if peers is not None or name in ("ideas", "hybrid") else None
        words = (name, agent, gemini, replay, findings, self.brief_tokens, self.asking(runs), peers)
        return ProposerSettings(*words, self.proposals_per_call, self.adopt_share)

    def asking(self, runs: FolderOptions) -> Asking:
        """What of a brief the flags choose."""
        peers = SwarmFolder(Path(runs.run_dir))
        library = open_own_library(peers, self.findings.folder(runs)) if peers.path.is_dir() else None
        return Asking(self._categories(), self.plateau or None, library)

    def _categories(self) -> tuple[str, ...]:
        """The kinds of change, in plain words, each once."""
        names = dict.fromkeys(words for name in self.categories if (words := " ".join(name.lower().split())))
        if not names:
            raise UsageError(f"--categories: name one or more, such as {','.join(DEFAULT_CATEGORIES[:3])}")
        if ours := {CONSTANTS_CATEGORY, NO_PROPOSAL} & names.keys():
            raise UsageError(f"--categories: {min(ours)!r} is a mark of the ledger's own: name it otherwise")
        return tuple(names)


def check_proposer(
    settings: ProposerSettings,
    asset: AssetKind,
    editable: Path,
    program: ProgramPage,
    source: str,
    environment: Mapping[str, str],
    notice: Callable[[str], None] | None = None,
) -> None:
    """Finds what would make every proposal fail, before anything is measured.

    Args:
      asset: the kind of the file to edit.
      editable: that file in the user's checkout.
      source: the champion's text.
      notice: told, in place of an error, what a kept change brought about.

    Raises:
      UsageError: the command is not there, the brief has no room, or a limit cannot be kept.
      UserError: no client of the model's service can be made.
    """
    agent, gemini = settings.agent, settings.gemini
    has_table = bool(program.constants) and settings.name in ("constants", "hybrid")
    if settings.name == "constants" and not has_table:
        raise UsageError(f"{_no_table(program)}, which --proposer=constants needs")
    tried = settings.findings if settings.tries_findings else None
    if tried is not None and agent is gemini is None and not has_table and notice is None:
        also = "" if settings.name == "ideas" else f", and {_no_table(program)}"
        flag = f"--proposer={settings.name}"
        require_fitting_finding(tried, settings.peers, asset, editable, source, environment, flag, also)
    if agent is not None and (problem := missing_command(agent.command, editable, environment)) is not None:
        raise UsageError(f"--agent_command: {problem}")
    if agent is None and gemini is None:
        return
    needed = count_tokens(essential_text(program.for_agents, source, asset)) + OWN_TOKENS
    if needed > settings.brief_tokens:
        words = f"--brief_tokens={settings.brief_tokens}: the contract, {program.path.name} and {editable.name} take "
        words += f"{needed}: set twice that"
        if notice is None:
            raise UsageError(words)
        notice(words)
    if gemini is not None:
        try:
            check_limits(gemini, Usage(needed, gemini.max_output_tokens))
        except LimitReached as error:
            raise UsageError(f"{error}, so nothing would be asked: raise it, or lower --max_output_tokens") from error
    check_dollars(settings, program)
    if gemini is not None:
        try_model(gemini)


def _no_table(program: ProgramPage) -> str:
    return f'{program.path}: no table of constants under "You may change"'


def model_notice(settings: ProposerSettings, program: ProgramPage, environment: Mapping[str, str]) -> str | None:
    """One line for a hybrid run that leaves a key unused, or whose model may cost what it likes; None for others."""
    if settings.name != "hybrid" or settings.agent is not None:
        return None
    if settings.gemini is None:
        if not (names := key_names(environment)):
            return None
        return f"{names[0]} is not used, since no flag asks for a model: --max_dollars=5 has one propose, too"
    in_dollars = any(isinstance(stop, Limit) and stop.quantity == "dollars" for stop in program.stops)
    if in_dollars or settings.gemini.limits != SpendingLimits():
        return None
    remedy = "--max_dollars=5 sets one, --proposer=ideas or constants asks no model"
    return f"{settings.gemini.model} is asked for proposals, with no limit to what they cost: {remedy}"


def check_dollars(settings: ProposerSettings, program: ProgramPage) -> None:
    """Refuses a limit in dollars where it is not known what proposals cost.

    Raises:
      UsageError: there is one.
    """
    for stop in program.stops:
        if isinstance(stop, Limit) and stop.quantity == "dollars":
            where = f'{program.path}: "{stop.words}"'
            if settings.agent is not None:
                raise UsageError(f"{where}: {UNKNOWN_COST}")
            if settings.gemini is not None:
                require_price(settings.gemini, where)


def try_agent(
    settings: ProposerSettings, workspace: Workspace, source: str, environment: Mapping[str, str]
) -> str | None:
    """Starts --agent_command once, for a second; returns a notice, if it ended with an error.

    Raises:
      UsageError: it cannot be started.
    """
    if settings.agent is None:
        return None
    try:
        notice = CommandProposer(
            replace(settings.agent, proposals=settings.proposals or 1),
            workspace.editable,
            workspace.copy_files,
            lambda experiment: Path(),
            environment,
        ).try_start(source)
    except AgentError as error:
        raise UsageError(f"--agent_command: {clean_line(settings.agent.command)}: {error}") from error
    return notice and f"--agent_command: {clean_line(settings.agent.command)}: {notice}"


def make_proposer(
    settings: ProposerSettings,
    workspace: Workspace,
    folder: RunFolder,
    environment: Mapping[str, str],
    examine: Examine,
    observer: ServiceObserver,
    device_class: str = "",
    check: str = CHECK,
    slots: int = 1,
    lineages: FindingStore | None = None,
) -> Proposer:
    """Who proposes; the observer is told how the service is.

    Args:
      settings: who, and what it needs.
      workspace: of the run.
      folder: of the run.
      environment: of this process.
      examine: traces what is proposed.
      observer: see above.
      device_class: whose evidence counts for findings.
      check: see `CommandProposer`.
      slots: trials that run at the same time.
      lineages: findings of other lineages.

    Raises:
      UserError: the model is not there, or refuses the credentials.
    """
    agent: Proposer | None = None
    proposals = settings.proposals or min(slots, MOST_PROPOSALS)
    if settings.name == BY_HAND:
        return ReplayProposer((), lambda *words: None)
    if settings.replay is not None:
        return ReplayProposer(
            read_recorded(settings.replay), lambda made, base, brief: rebase(made, base, brief, workspace.merge)
        )
    if settings.agent is not None:
        waiting = WaitingProposals(folder, CommandProposer.name, workspace.merge, observer.notice)
        command = CommandProposer(
            replace(settings.agent, proposals=proposals),
            workspace.editable,
            workspace.copy_files,
            folder.llm_dir,
            environment,
            examine=examine,
            keep_others=waiting.keep,
            check=check,
        )
        agent = SeveralProposer(command, waiting, examine)
    elif settings.gemini is not None:
        # google-genai takes half a second to import, which the commands and runs that ask no model do not spend.
        from autoresearch_jax.proposers.llm import GeminiProposer

        waiting = WaitingProposals(folder, GeminiProposer.name, workspace.merge, observer.notice)
        model = GeminiProposer(
            replace(settings.gemini, proposals=proposals),
            Path(workspace.editable).name,
            examine,
            folder.llm_dir,
            settings.brief_tokens,
            observer.notice,
            keep_others=waiting.keep,
        )
        if (warning := model.check_model()) is not None:
            observer.notice(warning)
        agent = SeveralProposer(model, waiting, examine)
    # So do optuna and scipy, which nothing needs that is tried by hand.
    from autoresearch_jax.proposers.constants import ConstantsProposer

    merge = merge_changes(workspace.merge, workspace.asset)
    ideas: Proposer | None = None
    elsewhere: CategoryCounter = dict
    if settings.findings is not None:
        stores = [] if lineages is None else [lineages]
        library = open_library(settings.findings, observer.notice, workspace.asset, settings.peers, stores)
    if settings.findings is not None and settings.tries_findings:
        ideas = IdeasProposer(library, order_of_own(device_class), merge, examine, observer.notice)
        elsewhere = category_counter(library, device_class)
    proposer = agent or ideas or ConstantsProposer()
    if settings.name == "hybrid":
        from autoresearch_jax.proposers.hybrid import HybridProposer

        proposer = HybridProposer(ConstantsProposer(), agent, observer, ideas=ideas, elsewhere=elsewhere)
    if settings.peers is not None:
        return AdoptingProposer(proposer, library, device_class, merge, examine, observer.notice, settings.adopt_share)
    return proposer
