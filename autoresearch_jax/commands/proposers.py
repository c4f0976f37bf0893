"""Who proposes, made from options; and what is tried of it before anything is measured: its command, model and page."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.merging import rebase_text
from autoresearch_jax.commands.options import list_flags
from autoresearch_jax.commands.proposer_options import (
    BY_HAND,
    OWN_TOKENS,
    UNKNOWN_COST,
    ProposerSettings,
    key_names,
    require_price,
)
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.limits import Limit
from autoresearch_jax.engine.program import ProgramPage
from autoresearch_jax.engine.proposals import read_recorded
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.waiting import WaitingProposals
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UsageError
from autoresearch_jax.findings.folder import FindingStore, open_library
from autoresearch_jax.findings.format import FindingError, apply_finding
from autoresearch_jax.proposers.adopting import AdoptingProposer
from autoresearch_jax.proposers.base import (
    Examine,
    LimitReached,
    Proposer,
    ServiceObserver,
    rebase,
)
from autoresearch_jax.proposers.briefing import count_tokens, essential_text
from autoresearch_jax.proposers.command import CHECK, AgentError, CommandProposer
from autoresearch_jax.proposers.ideas import CategoryCounter, IdeasProposer, category_counter, order_of_own
from autoresearch_jax.proposers.llm_budget import (
    GeminiOptions,
    SpendingLimits,
    Usage,
    check_limits,
)
from autoresearch_jax.proposers.replay import ReplayProposer
from autoresearch_jax.proposers.several import MOST_PROPOSALS, SeveralProposer
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Merge

_CHECK_PATHS = ("cache_dir", "data_dir", "compile_cache", "program")  # of `run`, which `check` takes over as they are
SHELL = "/bin/sh"
SHELL_SECONDS = 10.0  # within which it has parsed a line
_SHELL_CHARACTERS = set("|&;<>()$`\\\"'*?[]#=%!{}")  # a word that has one is the shell's to expand


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


def try_model(gemini: GeminiOptions) -> None:
    """Makes a client of the model's service, and sends nothing to it.

    Raises:
      UserError: it cannot be made; the message names the variable or flag.
    """
    from autoresearch_jax.proposers.llm_client import GeminiClient  # takes half a second to import

    GeminiClient(gemini).close()


def merge_changes(merge: Merge, asset: AssetKind) -> Merge:
    """Merges a change into a text whose constants have other values, too; see `rebase_text`."""
    return lambda base, ours, theirs: rebase_text(asset, theirs, base, ours, merge)


def require_fitting_finding(
    folder: Path,
    peers: Path | None,
    asset: AssetKind,
    editable: Path,
    source: str,
    environment: Mapping[str, str],
    flag: str,
    also: str,
) -> None:
    """Refuses to begin with nothing but findings where none fits the asset.

    Args:
      folder: of findings beside the shipped ones.
      peers: that of those of peers.
      asset: its kind.
      editable: the file in the user's checkout.
      source: its text.
      environment: of this process.
      flag: that asks for findings.
      also: why there is nothing else to try, for the message.

    Raises:
      UsageError: none fits.
    """
    library = open_library(folder, lambda text: None, asset, peers)
    merge, why = merge_changes(Git(editable.resolve().parent, environment).merge, asset), "there is none"
    for finding in library.findings():
        try:
            apply_finding(finding, source, library.base_text(finding.base), merge, asset)
            return
        except FindingError as error:
            why = clean_line(str(error))
    raise UsageError(
        f"{flag}: no finding fits {editable.name} ({why}){also}: import some (`autoresearch findings import`), or "
        "choose another --proposer"
    )


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
