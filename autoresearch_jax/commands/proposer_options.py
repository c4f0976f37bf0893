"""Options of who proposes: constants, findings, a Gemini model, your own agent, all in turn, or a recorded run."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from autoresearch_jax.commands.folder_options import FindingOptions, FolderOptions
from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.engine.briefs import Asking
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.adopting import DEFAULT_SHARE
from autoresearch_jax.proposers.base import (
    CONSTANTS_CATEGORY,
    DEFAULT_CATEGORIES,
    NO_PROPOSAL,
)
from autoresearch_jax.proposers.briefing import BYTES_PER_TOKEN, DEFAULT_TOKENS
from autoresearch_jax.proposers.command import Agent
from autoresearch_jax.proposers.llm_budget import (
    DEFAULT_LOCATION,
    DEFAULT_MODEL,
    GeminiOptions,
    Price,
    SpendingLimits,
    Usage,
    cost,
)
from autoresearch_jax.proposers.several import MOST_PROPOSALS
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.contents import open_own_library
from autoresearch_jax.swarm.membership import SwarmFolder

KEY_VARIABLE = "GEMINI_API_KEY"
KEY_VARIABLES = ("GOOGLE_API_KEY", KEY_VARIABLE)  # the first that is set holds, as with google-genai itself
_MODEL = re.compile(r"[\w@-][\w.@-]*(/[\w@-][\w.@-]*)*", re.ASCII)
_NAME = re.compile(r"[\w.:-]+", re.ASCII)
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[\w-]+(\.[\w-]+)*)(:\d{1,5})?(/[^\s?#]*)?", re.ASCII)
PROPOSERS = ("hybrid", "constants", "ideas", "gemini", "command", "replay")
BY_HAND = "by hand"  # in place of one of these: nothing is proposed, see commands/try_.py
OWN_TOKENS = 3500  # kept free for our own words and the contract
DEFAULT_PLATEAU = 12  # discards in a row; a night on one GPU is about 100 experiments
UNKNOWN_COST = "what --agent_command costs is not known, so no such limit can be kept: leave it out"


@dataclass(frozen=True)
class ModelOptions:
    """Which Gemini model, the way to it, and what it may cost."""

    gemini_model: str = option(DEFAULT_MODEL, "model that is asked", in_run=InRun.FREE)
    gemini_base_url: str | None = option(
        None,
        "service that speaks Gemini's protocol, instead of Google's; the key goes there, if there is one",
        in_run=InRun.FREE,
    )
    gemini_vertex_project: str | None = option(
        None,
        "Google Cloud project that pays for Vertex AI, with application-default credentials instead of a key",
        in_run=InRun.FREE,
    )
    gemini_vertex_location: str | None = option(
        None, f'region in which Vertex AI computes; "{DEFAULT_LOCATION}" by default', in_run=InRun.FREE
    )
    max_output_tokens: int = option(
        GeminiOptions.max_output_tokens,
        "length of an answer of the model, its thinking included",
        least=1,
        in_run=InRun.FREE,
    )
    temperature: float | None = option(None, "of the model; the service's own by default", least=0, in_run=InRun.FREE)
    repair_rounds: int = option(
        GeminiOptions.repair_rounds,
        "how often an answer that cannot be measured goes back to the model, or the agent, for one proposal",
        least=0,
        in_run=InRun.FREE,
    )
    proposal_seconds: float = option(
        GeminiOptions.proposal_seconds,
        "time limit of all requests to the model, and waits between them, for one proposal",
        above=0,
        hint="such as 600",
        in_run=InRun.FREE,
    )
    max_dollars: float | None = option(None, "what the run may spend on the model", least=0, in_run=InRun.FREE)
    max_tokens: int | None = option(
        None, "how many tokens the run may send and receive, thinking included", least=0, in_run=InRun.FREE
    )
    max_requests: int | None = option(None, "how many requests the run may send", least=0, in_run=InRun.FREE)
    model_price: str | None = option(
        None, "IN,OUT: dollars per million tokens of input and output, instead of the list's", in_run=InRun.FREE
    )

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.gemini_model):
            raise UsageError(f"--gemini_model={self.gemini_model}: expected a model's name, such as {DEFAULT_MODEL}")
        url = self.gemini_base_url or "http://localhost"
        if "@" in url:
            raise UsageError(f"--gemini_base_url: leave out name and password; a key is read from {KEY_VARIABLE}")
        if not _URL.fullmatch(url):
            raise UsageError(f"--gemini_base_url={clean_line(url)}: expected a URL such as http://127.0.0.1:8080")
        for name in ("gemini_vertex_project", "gemini_vertex_location"):
            if (value := getattr(self, name)) and not _NAME.fullmatch(value):  # it becomes part of a URL
                raise UsageError(f"--{name}={value}: expected a name of letters, digits and hyphens")
        if self.gemini_vertex_location and not self.gemini_vertex_project:
            raise UsageError("--gemini_vertex_location needs --gemini_vertex_project, the project that pays")
        self._price()

    @property
    def spending_limits(self) -> list[str]:
        """Names of the limits that are set."""
        return [name for name in ("max_dollars", "max_tokens", "max_requests") if getattr(self, name) is not None]

    @property
    def is_asked_for(self) -> bool:
        """Whether a flag names the model or the way to it, or limits what it takes. A key alone may be for others."""
        named = self.gemini_base_url or self.gemini_vertex_project or self.gemini_model != DEFAULT_MODEL
        return bool(named or self.spending_limits)

    def settings(self, environment: Mapping[str, str], *, required: bool = True) -> GeminiOptions | None:
        """How the model is asked; None if none is required, and there is no way to it or no flag that asks for it.

        Args:
          environment: of this process, which has the key.
          required: whether the run cannot do without the model.

        Raises:
          UsageError: no way to the model is given, or a value makes no sense.
        """
        if not (required or self.is_asked_for):
            return None
        keys = {name: environment[name].strip() for name in key_names(environment)}
        settings = GeminiOptions(
            model=self.gemini_model,
            key=None if self.gemini_vertex_project else next(iter(keys.values()), None),
            base_url=self.gemini_base_url or None,
            vertex_project=self.gemini_vertex_project or None,
            vertex_location=self.gemini_vertex_location or DEFAULT_LOCATION,
            secrets=tuple(keys.values()),
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            repair_rounds=self.repair_rounds,
            proposal_seconds=self.proposal_seconds,
            limits=SpendingLimits(self.max_dollars, self.max_tokens, self.max_requests),
            price=self._price(),
        )
        if not (settings.key or settings.vertex_project or settings.base_url):
            if not required:
                return None
            raise UsageError(
                f"--proposer=gemini needs a key in {KEY_VARIABLE}, or --gemini_vertex_project with application-default "
                "credentials (--gemini_vertex_location names a region), or --gemini_base_url of a service of your own"
            )
        key = settings.key or "none"
        if not (key.isascii() and key.isprintable() and " " not in key):
            name = next(iter(keys))
            raise UsageError(f"{name}: the key has spaces or characters that no key has: was it copied whole?")
        if self.max_dollars is not None:
            require_price(settings, f"--max_dollars={self.max_dollars:g}")
        return settings

    def _price(self) -> Price | None:
        if self.model_price is None:
            return None
        try:
            given, made = (float(word) for word in self.model_price.split(","))
        except ValueError:
            given = made = math.nan
        if not (0 <= given < math.inf and 0 <= made < math.inf):
            raise UsageError(
                f"--model_price={self.model_price}: expected IN,OUT in dollars per million tokens, such as 0.30,2.50"
            )
        return Price(given, made)


def key_names(environment: Mapping[str, str]) -> list[str]:
    """The variables that hold a key; the first of them holds."""
    return [name for name in KEY_VARIABLES if environment.get(name, "").strip()]


def require_price(settings: GeminiOptions, limit: str) -> None:
    """Refuses a limit of dollars, such as that of "program.md:12", for a model whose price is not known.

    Raises:
      UsageError: it is not known.
    """
    if cost(settings, Usage(1, 1), datetime.now(UTC)) is None:
        where = settings.model
        if settings.vertex_project is not None and settings.vertex_location != DEFAULT_LOCATION:
            where += f" in {settings.vertex_location}"
        raise UsageError(
            f"{limit}: the price of {where} is not known: give it, --model_price=IN,OUT in dollars per million tokens, "
            "or limit tokens with --max_tokens instead of dollars"
        )


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
