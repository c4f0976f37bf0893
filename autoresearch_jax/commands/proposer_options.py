"""Options of who proposes: constants, a Gemini model, your own agent, both in turn, or a recorded run."""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from autoresearch_jax.commands.options import FolderOptions, option
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.program import Program
from autoresearch_jax.engine.proposals import read_recorded
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import Asking
from autoresearch_jax.engine.stopping import Limit
from autoresearch_jax.engine.training_file import rebase
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import (
    CONSTANTS_CATEGORY,
    DEFAULT_CATEGORIES,
    NO_PROPOSAL,
    Examine,
    LimitReached,
    Proposer,
)
from autoresearch_jax.proposers.briefing import BYTES_PER_TOKEN, DEFAULT_TOKENS, count_tokens, essential_text
from autoresearch_jax.proposers.command import Agent, CommandProposer
from autoresearch_jax.proposers.constants import ConstantsProposer
from autoresearch_jax.proposers.hybrid import HybridProposer
from autoresearch_jax.proposers.llm_budget import (
    DEFAULT_LOCATION,
    DEFAULT_MODEL,
    GeminiOptions,
    Limits,
    Price,
    Usage,
    check_limits,
    cost,
)
from autoresearch_jax.proposers.replay import ReplayProposer
from autoresearch_jax.sandbox.process import describe_exit
from autoresearch_jax.sanitize import clean_line

PROPOSERS = ("constants", "gemini", "command", "hybrid", "replay")
KEY_VARIABLE = "GEMINI_API_KEY"
KEY_VARIABLES = ("GOOGLE_API_KEY", KEY_VARIABLE)  # the first that is set holds, as with google-genai itself
INSTRUCTION_TOKENS = 1000  # kept free for our own words
DEFAULT_PLATEAU = 12  # discards in a row; a night on one GPU is about 100 experiments
UNKNOWN_COST = "what --agent_command costs is not known, so no such limit can be kept: leave it out"
SHELL = "/bin/sh"
SHELL_SECONDS = 10.0  # within which it has parsed a line
_SHELL_CHARACTERS = set("|&;<>()$`\\\"'*?[]#=%!{}")  # what a shell makes something else of than a word
_MODEL = re.compile(r"[\w@-][\w.@-]*(/[\w@-][\w.@-]*)*", re.ASCII)
_NAME = re.compile(r"[\w.:-]+", re.ASCII)


@dataclass(frozen=True)
class ModelOptions:
    """Which Gemini model, the way to it, and what it may cost."""

    gemini_model: str = option(DEFAULT_MODEL, "model that is asked")
    gemini_base_url: str | None = option(
        None, "service that speaks Gemini's protocol, instead of Google's; the key goes there, if there is one"
    )
    gemini_vertex_project: str | None = option(
        None, "Google Cloud project that pays for Vertex AI, with application-default credentials instead of a key"
    )
    gemini_vertex_location: str | None = option(
        None, f'region in which Vertex AI computes; "{DEFAULT_LOCATION}" by default'
    )
    max_output_tokens: int = option(
        GeminiOptions.max_output_tokens, "length of an answer of the model, its thinking included", least=1
    )
    temperature: float | None = option(None, "of the model; the service's own by default", least=0)
    repair_rounds: int = option(
        GeminiOptions.repair_rounds,
        "how often an answer that cannot be measured goes back to the model, or the agent, for one proposal",
        least=0,
    )
    proposal_seconds: float = option(
        GeminiOptions.proposal_seconds,
        "time limit of all requests to the model, and waits between them, for one proposal",
        above=0,
        hint="such as 600",
    )
    max_dollars: float | None = option(None, "what the run may spend on the model", least=0)
    max_tokens: int | None = option(None, "how many tokens the run may send and receive, thinking included", least=0)
    max_requests: int | None = option(None, "how many requests the run may send", least=0)
    model_price: str | None = option(
        None, "IN,OUT: dollars per million tokens of input and output, instead of the list's"
    )

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.gemini_model):
            raise UsageError(f"--gemini_model={self.gemini_model}: expected a model's name, such as {DEFAULT_MODEL}")
        _check_url(self.gemini_base_url or "http://localhost")
        for name in ("gemini_vertex_project", "gemini_vertex_location"):
            if (value := getattr(self, name)) and not _NAME.fullmatch(value):  # it becomes part of a URL
                raise UsageError(f"--{name}={value}: expected a name of letters, digits and hyphens")
        self._price()

    @property
    def spending_limits(self) -> list[str]:
        """Names of the limits that are set."""
        return [name for name in ("max_dollars", "max_tokens", "max_requests") if getattr(self, name) is not None]

    def settings(self, environment: Mapping[str, str], *, required: bool = True) -> GeminiOptions | None:
        """How the model is to be asked; None if there is no way to it and none is required.

        Args:
          environment: of this process, which has the key.
          required: whether the run cannot do without.

        Raises:
          UsageError: no way is given, or a value makes no sense.
        """
        limits = Limits(self.max_dollars, self.max_tokens, self.max_requests)
        keys = {name: environment[name].strip() for name in KEY_VARIABLES if environment.get(name, "").strip()}
        if self.gemini_vertex_location and not self.gemini_vertex_project:
            raise UsageError("--gemini_vertex_location needs --gemini_vertex_project, the project that pays")
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
            limits=limits,
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
        if limits.dollars is not None:
            require_price(settings, f"--max_dollars={limits.dollars:g}")
        return settings

    def _price(self) -> Price | None:
        if self.model_price is None:
            return None
        try:
            given, made = (float(word) for word in self.model_price.split(","))
        except ValueError:
            given = made = math.nan
        if not (math.isfinite(given) and math.isfinite(made) and given >= 0 and made >= 0):
            raise UsageError(
                f"--model_price={self.model_price}: expected IN,OUT in dollars per million tokens, such as 0.30,2.50"
            )
        return Price(given, made)


@dataclass(frozen=True)
class ProposerSettings:
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


@dataclass(frozen=True)
class ProposerOptions:
    """Who proposes, and what belongs to one of them."""

    proposer: str = option(
        "constants",
        "who proposes: constants moves those of program.md's table; gemini asks a model; command calls "
        "--agent_command; hybrid shares the experiments between constants and one of these; replay repeats --replay",
        choices=PROPOSERS,
    )
    agent_command: str | None = option(
        None,
        "line of shell that starts a coding agent in a copy of the champion's files; it reads BRIEF.md and changes the "
        "training file; it has your rights, network and environment",
    )
    agent_seconds: float = option(600.0, "time limit of the agent for one proposal", above=0, hint="such as 600")
    model: ModelOptions = field(default_factory=ModelOptions)
    replay: str | None = option(None, "run, by its tag or its folder, whose proposals --proposer=replay repeats")
    brief_tokens: int = option(
        DEFAULT_TOKENS, f"length of the brief for an agent, a token counted as {BYTES_PER_TOKEN} bytes"
    )
    plateau: int = option(
        DEFAULT_PLATEAU,
        "discards in a row after which an agent is told to change the structure; 0 for never",
        least=0,
    )
    categories: tuple[str, ...] = option(
        tuple(DEFAULT_CATEGORIES), "kinds of change that an agent may name, and that hybrid asks it for in turn"
    )

    def settings(self, runs: FolderOptions, environment: Mapping[str, str]) -> ProposerSettings:
        """Who is to propose.

        Raises:
          UsageError: something that the proposer needs is missing, or makes no sense.
        """
        name, command = self.proposer, (self.agent_command or "").strip()
        if name in ("constants", "gemini") and command:
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
                "a ledger.db"
            )
        asking = Asking(self._categories(), self.plateau or None)
        return ProposerSettings(name, agent, gemini, replay, self.brief_tokens, asking)

    def _categories(self) -> tuple[str, ...]:
        """The kinds of change, in plain words, each once."""
        names = dict.fromkeys(words for name in self.categories if (words := " ".join(name.lower().split())))
        if not names:
            raise UsageError(f"--categories: name one or more, such as {','.join(DEFAULT_CATEGORIES[:3])}")
        if ours := {CONSTANTS_CATEGORY, NO_PROPOSAL} & names.keys():
            raise UsageError(f"--categories: {min(ours)!r} is a mark of the ledger's own: name it otherwise")
        return tuple(names)


def check_proposer(
    settings: ProposerSettings, editable: Path, program: Program, source: str, environment: Mapping[str, str]
) -> None:
    """Finds what would make every proposal fail, before anything is measured.

    Args:
      settings: who proposes.
      editable: the training file in the user's checkout.
      program: program.md.
      source: the champion's text.
      environment: of this process.

    Raises:
      UsageError: the command is not there, the brief has no room, or a limit cannot be kept.
    """
    agent, gemini = settings.agent, settings.gemini
    moves_constants_alone = settings.name == "constants" or (settings.name == "hybrid" and agent is gemini is None)
    if moves_constants_alone and not program.constants:
        raise UsageError(
            f'{program.path}: no table of constants under "You may change", which --proposer={settings.name} needs'
            + ("" if settings.name == "constants" else " where there is no agent")
        )
    if agent is not None and (problem := missing_command(agent.command, editable, environment)) is not None:
        raise UsageError(f"--agent_command: {problem}")
    if agent is None and gemini is None:
        return
    needed = count_tokens(essential_text(program.text, source)) + INSTRUCTION_TOKENS
    if needed > settings.brief_tokens:
        raise UsageError(
            f"--brief_tokens={settings.brief_tokens}: {program.path.name} and {editable.name} alone take {needed}: set "
            "twice that"
        )
    if gemini is not None:
        try:
            check_limits(gemini, Usage(needed, gemini.max_output_tokens))
        except LimitReached as error:
            raise UsageError(f"{error}, so nothing would be asked: raise it, or lower --max_output_tokens") from error
    for stop in program.stops:
        if isinstance(stop, Limit) and stop.quantity == "dollars":
            where = f'{program.path}: "{stop.words}"'
            if gemini is None:
                raise UsageError(f"{where}: {UNKNOWN_COST}")
            require_price(gemini, where)


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


def make_proposer(
    settings: ProposerSettings,
    workspace: Workspace,
    folder: RunFolder,
    environment: Mapping[str, str],
    examine: Examine,
    notice: Callable[[str], None],
) -> Proposer:
    """Who proposes.

    Args:
      settings: from `ProposerOptions.settings`.
      workspace: of the run.
      folder: of the run.
      environment: of this process, for an agent's command.
      examine: tries a text before it is proposed.
      notice: told what the user should know.

    Raises:
      UserError: the model is not there, or refuses the credentials.
    """
    agent: Proposer | None = None
    if settings.replay is not None:
        return ReplayProposer(
            read_recorded(settings.replay), lambda made, base, brief: rebase(made, base, brief, workspace.merge)
        )
    if settings.agent is not None:

        def copy_files(target: Path) -> None:
            """What the run's branch holds, which is the champion's commit."""
            git = Git(workspace.folder, environment)
            git.text("checkout-index", "--all", "--force", f"--prefix={target}/")

        agent = CommandProposer(
            settings.agent, workspace.editable, copy_files, folder.llm_dir, environment, examine=examine
        )
    elif settings.gemini is not None:
        # google-genai takes half a second to import, which the commands and runs that ask no model do not spend.
        from autoresearch_jax.proposers.llm import GeminiProposer

        name = Path(workspace.editable).name
        model = GeminiProposer(settings.gemini, name, examine, folder.llm_dir, settings.brief_tokens)
        if (warning := model.check_model()) is not None:
            notice(warning)
        agent = model
    if settings.name == "hybrid":
        return HybridProposer(ConstantsProposer(), agent, notice)
    return ConstantsProposer() if agent is None else agent


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
        if shutil.which(os.path.expanduser(word), path=environment.get("PATH")) is not None:
            return None
        known = _ask_shell(["-c", 'command -v -- "$1"', SHELL, word], environment)  # such as `trap`
        return (
            None
            if known is None or not known.returncode
            else f"{word}: no such program: install it, or give its whole path"
        )
    if not Git(editable.resolve().parent, environment).succeeds("ls-files", "--error-unmatch", "--", word):
        return (
            f"{word} is not in the repository beside {editable.name}, and the command runs in a copy of what git "
            "tracks: give the whole path, or commit it"
        )
    return None


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


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()  # refuses labels that are empty or too long
        known = _NAME.fullmatch(host) or ":" in host  # a colon: in brackets, which urlsplit checks
        usable = parts.scheme in ("http", "https") and bool(known) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    printed = url.isprintable() and " " not in url  # urlsplit leaves out line ends
    if not usable or not printed or parts.query or parts.fragment:
        raise UsageError(f"--gemini_base_url={clean_line(url)}: expected a URL such as http://127.0.0.1:8080")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"--gemini_base_url: leave out name and password; a key is read from {KEY_VARIABLE}")
