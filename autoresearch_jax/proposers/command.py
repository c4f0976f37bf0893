"""Any coding agent with a command line: what it does to the asset in a scratch copy is the proposal."""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.agent_files import (
    explain,
    explained,
    file_states,
    read_beginning,
    read_source,
    remove,
    require_finished,
    with_notes,
    write_anew,
)
from autoresearch_jax.proposers.base import (
    MAX_WHY_CHARACTERS,
    Brief,
    Examine,
    Objection,
    Proposal,
    ProposalFailed,
)
from autoresearch_jax.proposers.briefing import (
    DEFAULT_TOKENS,
    MAX_CATEGORY_CHARACTERS,
    BriefError,
    rule_line,
    write_brief,
)
from autoresearch_jax.proposers.several import KeepOthers
from autoresearch_jax.sandbox.process import CommandStopped, WatchError, describe_exit, run_command
from autoresearch_jax.sandbox.sandbox import scratch_folder
from autoresearch_jax.sanitize import blanks, clean_line, clean_secret_line, quoted, redact, secret_values

BRIEF_FILE = "BRIEF.md"
HYPOTHESIS_FILE = "HYPOTHESIS.md"
CHECK = "autoresearch check"
FURTHER_FOLDER = "proposals"  # beside the asset: a folder for each proposal after the first
SHORTEST_ROUND_SECONDS = 1.0
START_SECONDS = 1.0  # within which a shell has found the programs of a command, or not
DEFAULT_CATEGORY = "code"
MAX_NAMES = 3  # of other files that are named
MAX_QUOTE_CHARACTERS = 160  # of output
SHORT_OBJECTION_CHARACTERS = 300  # where a longer one does not fit into the brief
# By these a caller, such as a git hook, would point the agent's git at the user's own repository.
_REPOSITORY_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
_INSTRUCTIONS = """\
You are to improve the {noun} `{name}` in this folder: one idea, as small a change as it takes.

- What you leave in `{name}` is the proposal. It is checked, measured on one trial's budget and compared with the
  champion by others; there is no data here to try it on. Changes of other files are ignored.
- Another trial is being timed on this machine: do not measure, install or benchmark anything.
  `{check} {name}` says in seconds what is wrong with the text.
- Do not propose what was tried, as listed below, unless you know why it comes out otherwise this time.
{rule}- Write `{hypothesis}`: its first line says what you changed and what gain you expect of it; a line
  `category: WORD` names the kind of change, one of: {categories}. Without this file the last line that you print is
  the hypothesis. A line `why: ...` in it may say in at most {why} characters why it should work: people read that as
  your opinion. A line `used: ID, ID` names findings of peers that you used, where some are listed below.
{several}- What is asked for this time, and how much time there is, stands at the end of this page.
"""
_SEVERAL = """\
- Propose {count} changes, as unlike each other as they can be: one in `{name}`, and one in each of {further}, which are
  copies of it. Each is by itself a change of the champion's source; they do not build on one another. `{name}` is
  measured next, the others in the experiments after it; if a kind of change is asked for, it is that of `{name}`.
  Beside each copy a `{hypothesis}` of its own says what was changed there. A copy that you leave as it is counts for
  nothing.
"""
_TIME = """\
You have {seconds:.0f} seconds.
"""
_REFUSED = """
## Your last try was refused

`{name}` is as you left it, and is the proposal if you change nothing. What is wrong with it:

{objection}
"""
_START_BRIEF = """\
This only tries whether you start: change nothing, ask nobody, and end now.
"""
# What shells and interpreters say of a program or script that they cannot find
_NOT_FOUND = re.compile(
    r"(\S*sh|\S*python[\d.]*): .*(cannot open|can't open|not found|No such file|Permission denied).*"
)
_REMEDY = "it runs in a copy of the last commit: commit your script, install what is missing, or give a whole path"
_NOT_STARTED = (126, 127)  # a shell's status of a command that cannot be run, or is not there


class AgentError(UserError):
    """An agent that cannot be started."""


@dataclass(frozen=True)
class Agent:
    """How an agent is called."""

    command: str  # a line of shell
    seconds: float = 600.0  # its time limit
    brief_tokens: int = DEFAULT_TOKENS  # length of BRIEF.md, see `briefing.count_tokens`
    repair_rounds: int = 2  # how often a text that cannot be measured goes back to it
    proposals: int = 1  # how many it makes each time


class CommandProposer:
    """Starts the command anew for each proposal, in a copy of the champion's files that is gone afterwards.

    The agent is not confined: it is the user's own and needs their rights, variables and keys. Values of secret
    variables are blanked out of all that it leaves, so that a key in a text reaches neither git nor the ledger.
    """

    name = "command"

    def __init__(
        self,
        agent: Agent,
        editable: str,
        copy_files: Callable[[Path], None],
        llm_dir: Callable[[int], Path],
        environment: Mapping[str, str],
        scratch_parent: Path | None = None,
        examine: Examine | None = None,
        keep_others: KeepOthers = lambda brief, first, others: None,
        check: str = CHECK,
    ) -> None:
        """Stores what to call and where.

        Args:
          copy_files: puts the champion's tracked files into an empty folder; may raise UserError.
          scratch_parent: where the copies are made; the system's folder for temporary files by default. Not inside a
            repository: an agent's git would find that one.
          examine: tries what the agent wrote; what it objects to goes back to the agent. None lets all pass.
          keep_others: takes what the agent proposes beside the first; needed where it makes several.
          check: the line of shell by which the agent can try a text, without its file.
        """
        self._agent = agent
        self._editable = editable
        self._copy_files = copy_files
        self._llm_dir = llm_dir
        self._examine = examine
        self._keep_others = keep_others
        self._check = check
        self._environment = {k: v for k, v in environment.items() if k not in _REPOSITORY_VARIABLES}
        self._secrets = secret_values(environment)
        self._scratch_parent = scratch_parent
        self._closed = threading.Event()

    def propose(self, brief: Brief) -> Proposal:
        """See `Proposer.propose`; raises BriefError where what must be in BRIEF.md does not fit."""
        try:
            with scratch_folder("autoresearch-agent-", self._scratch_parent, remove) as scratch:
                return self._propose_in(scratch, brief)
        except CommandStopped as error:
            raise ProposalFailed("the agent was stopped") from error
        except (OSError, WatchError) as error:
            raise ProposalFailed(f"the agent could not be run: {error}") from error

    def try_start(self, source: str) -> str | None:
        """Starts the command once, with a brief that asks for nothing; it is killed after a second.

        Args:
          source: the champion's text.

        Returns:
          A notice, if it ended with an error.

        Raises:
          AgentError: it cannot be started.
        """
        try:
            with (
                scratch_folder("autoresearch-agent-", self._scratch_parent, remove) as scratch,
                tempfile.TemporaryDirectory(prefix="autoresearch-log-") as logs,
            ):
                editable = scratch / self._editable
                self._prepare(editable, scratch, source)
                write_anew(editable.parent / BRIEF_FILE, _START_BRIEF.encode())
                ended = run_command(
                    self._agent.command,
                    cwd=editable.parent,
                    environment=self._environment,
                    log_path=Path(logs) / "agent.log",
                    seconds=START_SECONDS,
                    blanks=blanks(self._secrets),
                )
        except (OSError, WatchError, ProposalFailed) as error:
            raise AgentError(f"cannot be started: {error}") from error
        said = clean_secret_line(ended.last_line, self._secrets)
        words = f"{describe_exit(ended.returncode or 0)} when it was tried"
        words += f", and said {quoted(said, MAX_QUOTE_CHARACTERS)}" if said else ""
        is_missing = _NOT_FOUND.fullmatch(said) is not None
        if ended.returncode in _NOT_STARTED or (ended.returncode and is_missing):
            raise AgentError(f"{words}: {_REMEDY}")
        return words if ended.returncode or is_missing else None

    def asks_ahead(self, brief: Brief) -> bool:
        """See `Proposer.asks_ahead`."""
        return True

    def close(self) -> None:
        """See `Proposer.close`."""
        self._closed.set()

    def _propose_in(self, scratch: Path, brief: Brief) -> Proposal:
        """Calls the agent until nothing speaks against what it wrote, or it was called often enough."""
        editable = scratch / self._editable
        self._prepare(editable, scratch, brief.champion_source)
        deadline = time.monotonic() + self._agent.seconds
        proposal: Proposal | None = None
        objection: Objection | None = None
        repeated = False
        for number in range(1, 2 + self._agent.repair_rounds):
            try:
                proposal = self._call(number, editable, scratch, brief, objection, deadline - time.monotonic())
            except (ProposalFailed, BriefError, WatchError, OSError):
                if proposal is None:
                    raise
                break  # the text of the earlier round is proposed
            repeated = repeated or (objection is not None and objection.repeats)
            objection = self._objection(brief, proposal)
            has_time = deadline - time.monotonic() > SHORTEST_ROUND_SECONDS
            if objection is None or (objection.repeats and repeated) or not has_time:
                break
        assert proposal is not None
        if proposal.source == brief.champion_source:
            raise ProposalFailed(proposal.hypothesis)
        return proposal

    def _objection(self, brief: Brief, proposal: Proposal) -> Objection | None:
        assert proposal.source is not None
        if proposal.source == brief.champion_source:
            return Objection("it is the champion's, to the last character: nothing was changed", repeats=True)
        return None if self._examine is None else self._examine(brief, proposal)

    def _call(
        self, number: int, editable: Path, scratch: Path, brief: Brief, objection: Objection | None, seconds: float
    ) -> Proposal:
        """What the agent made of the files; if it changed nothing, that is what the hypothesis says.

        Raises ProposalFailed if there is no text, or time is up.
        """
        page = redact(self._page(brief, objection, seconds), self._secrets)
        write_anew(editable.parent / BRIEF_FILE, page.encode("utf-8", "replace"))
        llm_dir, mark = self._llm_dir(brief.experiment), "" if number == 1 else f"-{number}"
        (llm_dir / f"BRIEF{mark}.md").write_text(page, encoding="utf-8", errors="replace")
        before, text_before = file_states(scratch), read_beginning(editable)
        outcome = run_command(
            self._agent.command,
            cwd=editable.parent,
            environment=self._environment,
            log_path=llm_dir / f"agent{mark}.log",
            seconds=seconds,
            stop=self._closed,
            blanks=blanks(self._secrets),
        )
        is_cut_off = outcome.returncode is None
        others, left_out = self._read_others(brief, editable, is_cut_off)
        self._keep_others(brief, (read_beginning(editable) or b"").decode("utf-8", "replace"), others)
        notes = []
        if is_cut_off:
            notes = [f"the agent ran longer than {self._agent.seconds:g} s"]
            require_finished(editable, text_before, notes[0], brief.asset)
        elif outcome.returncode:
            notes = [describe_exit(outcome.returncode)]  # the change is judged all the same
        notes += [*left_out, *self._ignored_changes(before, file_states(scratch))]
        source = self._without_secrets(brief, read_source(editable, notes), editable.name, notes)
        last_line = clean_secret_line(outcome.last_line, self._secrets)
        if source == brief.champion_source:
            said = f"; it said {quoted(last_line, MAX_QUOTE_CHARACTERS)}" if last_line else ""
            words = with_notes(f"the agent changed nothing in {editable.name}", notes) + said
            if others:
                raise ProposalFailed(words)
            return Proposal(words, DEFAULT_CATEGORY, source=source)
        file = editable.parent / HYPOTHESIS_FILE
        explanation = explain(file, outcome.last_line, self._secrets, brief.categories)
        return explained(brief, explanation, brief.category or DEFAULT_CATEGORY, source, self.name, notes)

    def _read_others(self, brief: Brief, editable: Path, is_cut_off: bool) -> tuple[list[Proposal], list[str]]:
        """What the agent proposes beside the first, and notes on what of it cannot be used."""
        found: list[Proposal] = []
        left_out: list[str] = []
        for path in further_paths(editable, self._agent.proposals):
            notes: list[str] = []
            try:
                if is_cut_off:
                    require_finished(path, brief.champion_source.encode(), "the agent ran too long", brief.asset)
                source = self._without_secrets(brief, read_source(path, notes), path.name, notes)
            except ProposalFailed as failure:
                if read_beginning(path) != brief.champion_source.encode():
                    left_out.append(f"{FURTHER_FOLDER}/{path.parent.name}: {failure}")
                continue
            if source != brief.champion_source:
                explanation = explain(path.with_name(HYPOTHESIS_FILE), "", self._secrets, brief.categories)
                found.append(explained(brief, explanation, DEFAULT_CATEGORY, source, self.name, notes))
        return found, left_out

    def _without_secrets(self, brief: Brief, written: str, name: str, notes: list[str]) -> str:
        """A text with secrets blanked out, but what the champion has, which is in git already."""
        source = redact(written, [secret for secret in self._secrets if secret not in brief.champion_source])
        if source != written:
            notes.append(f"a secret in {name} is blanked out")
        return source

    def _page(self, brief: Brief, objection: Objection | None, seconds: float) -> str:
        name = Path(self._editable).name
        words = instructions(brief.asset, name, brief.categories, self._agent.proposals, self._check)
        last = _TIME.format(seconds=seconds)
        if objection is None:
            return write_brief(brief, words, self._agent.brief_tokens, last)
        short = clean_line(objection.text, SHORT_OBJECTION_CHARACTERS)
        whole, cut = (last + _REFUSED.format(name=name, objection=text) for text in (objection.text, short))
        try:
            return write_brief(brief, words, self._agent.brief_tokens, whole)
        except BriefError:
            return write_brief(brief, words, self._agent.brief_tokens, cut)

    def _prepare(self, editable: Path, scratch: Path, source: str) -> None:
        """Puts the champion's files into the scratch folder."""
        try:
            self._copy_files(scratch)
        except UserError as error:
            raise ProposalFailed(f"the agent's copy of the files could not be made: {error}") from error
        for name in (BRIEF_FILE, HYPOTHESIS_FILE):  # of the repository: another one's words, or a link to elsewhere
            remove(editable.parent / name)
        further = further_paths(editable, self._agent.proposals)
        if further:
            remove(editable.parent / FURTHER_FOLDER)
        for path in (editable, *further):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_anew(path, source.encode("utf-8"))

    def _ignored_changes(self, before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
        """A note that names what else was changed; caches and new hidden files are left out."""
        folder = Path(self._editable).parent
        own = {self._editable, *((folder / name).as_posix() for name in (BRIEF_FILE, HYPOTHESIS_FILE))}
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} - own
        if self._agent.proposals > 1:
            changed = {path for path in changed if not path.startswith((folder / FURTHER_FOLDER).as_posix() + "/")}
        names = sorted(path for path in changed if path in before or not re.search(r"(^|/)(\.|__pycache__/)", path))
        if not names:
            return []
        shown = ", ".join(quoted(redact(name, self._secrets), MAX_CATEGORY_CHARACTERS) for name in names[:MAX_NAMES])
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        return [f"changes of {shown}{more} ignored"]


def instructions(asset: AssetKind, name: str, categories: Sequence[str], count: int = 1, check: str = CHECK) -> str:
    """Our own words at the head of BRIEF.md, the same for each experiment.

    Args:
      asset: the kind of the file to edit.
      name: that file's.
      categories: kinds of change that may be named.
      count: how many proposals are asked for.
      check: see `CommandProposer`.
    """
    named = ", ".join(clean_line(category) for category in categories)
    paths = [f"`{path.as_posix()}`" for path in further_paths(Path(name), count)]
    several = ""
    if paths:
        further = ", ".join(paths)
        several = _SEVERAL.format(count=count, name=name, further=further, hypothesis=HYPOTHESIS_FILE)
    return _INSTRUCTIONS.format(
        noun=asset.noun,
        name=name,
        rule=rule_line(asset),
        hypothesis=HYPOTHESIS_FILE,
        why=MAX_WHY_CHARACTERS,
        categories=named,
        several=several,
        check=check,
    )


def further_paths(editable: Path, count: int) -> list[Path]:
    """Copies of the asset for the proposals beside the first."""
    return [editable.parent / FURTHER_FOLDER / str(number) / editable.name for number in range(2, count + 1)]
