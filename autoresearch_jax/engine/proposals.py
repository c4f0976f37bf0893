"""The next proposal: asked for ahead, left on disk by a killed process, or asked for now."""

import hashlib
import json
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch_jax.assets.python_size import MAX_LITERAL_BYTES
from autoresearch_jax.engine.constants_table import table_objection
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.same_program import claimed, repetition
from autoresearch_jax.engine.task import Task
from autoresearch_jax.errors import UserError
from autoresearch_jax.files import write_whole
from autoresearch_jax.proposers.base import (
    NO_PROPOSAL,
    Brief,
    Objection,
    Proposal,
    ProposalFailed,
    Proposer,
    ServiceDown,
    SpaceExhausted,
    rebase,
)
from autoresearch_jax.proposers.replay import RecordedProposal
from autoresearch_jax.sandbox import priority
from autoresearch_jax.sandbox.process import bring_sessions_forward
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Candidate, CandidateRejected, Merge, Status

PROPOSAL_FILE = "proposal.json"
STALE_FILE = "stale.json"  # one that did not fit the champion that came meanwhile
REFUSED_FILE = "refused.json"  # the last that went back to its author


@dataclass(frozen=True)
class Made:
    """A proposal, the experiment that was champion when it was asked for, and a digest of that one's source."""

    proposal: Proposal
    champion: int
    champion_digest: str

    def is_for(self, source: str) -> bool:
        """True if it was made for this source: a folder may have files of another run."""
        return self.champion_digest == _digest(source)

    def record(self) -> dict[str, Any]:
        """As JSON has it, see `kept_proposal`."""
        made = {"champion": self.champion, "champion_digest": self.champion_digest}
        return {**vars(self.proposal), "constants": dict(self.proposal.constants), **made}


def made_for(brief: Brief, proposal: Proposal) -> Made:
    """A proposal that answers a brief."""
    champion = [outcome.experiment for outcome in brief.history if outcome.kept][-1]
    return Made(proposal, champion, _digest(brief.champion_source))


def keep_proposal(folder: RunFolder, brief: Brief, proposal: Proposal) -> Made:
    """Writes a proposal down, in place of an older one of the same experiment, where there is room."""
    made = made_for(brief, proposal)
    with suppress(OSError):  # a full disk: the proposal is in hand
        write_whole(folder.llm_dir(brief.experiment) / PROPOSAL_FILE, json.dumps(made.record(), indent=1) + "\n")
    return made


def kept_proposal(folder: RunFolder, experiment: int) -> Made | None:
    """The proposal that was made for an experiment; None if there is none that can be read."""
    try:
        record: dict[str, Any] = json.loads((folder.llm_path(experiment) / PROPOSAL_FILE).read_text(encoding="utf-8"))
        champion, digest = int(record.pop("champion")), str(record.pop("champion_digest"))
        record.pop("base", None)  # of one that waited
        return Made(Proposal(**record), champion, digest)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def put_aside(folder: RunFolder, experiment: int, name: str) -> None:
    """Renames a proposal that is not used, so that people can still read it."""
    path = folder.llm_path(experiment) / PROPOSAL_FILE
    with suppress(OSError):
        path.replace(path.with_name(name))


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def read_recorded(folder: RunFolder) -> list[RecordedProposal]:
    """All proposals of a run that are over, in their order; they cost nothing any more.

    Raises:
      LedgerError: there is no ledger, or it cannot be read.
    """
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        rows = [row for row in ledger.experiments() if row.kind is Kind.PROPOSAL and not row.is_open]
        return [_recorded(ledger, row) for row in rows]


def _recorded(ledger: Ledger, row: ExperimentRow) -> RecordedProposal:
    assert row.parent is not None
    source, base = ledger.source(row.id), ledger.source(row.parent)
    if source == base:  # the row of a proposal that came to nothing, or could not be applied
        return RecordedProposal(None, base, row.reason or NO_PROPOSAL, row.proposer)
    proposal = Proposal(
        row.hypothesis,
        row.category,
        source=source,
        proposer=row.proposer,
        finding=row.finding,
        adopted_from=row.adopted_from,
        used=row.used,
        why=row.why,
    )
    return RecordedProposal(proposal, base)


# The fault may be the trial that runs beside it: no reason to object.
_BUSY = (Status.TIMEOUT, Status.OOM)


class Precheck:
    """Traces texts, in the main thread or beside a trial.

    What was traced last for an experiment is not traced again when it is measured.
    """

    def __init__(
        self,
        task: Task,
        folder: RunFolder,
        max_literal_bytes: int = MAX_LITERAL_BYTES,
        claimant: Callable[[str], str | None] | None = None,
    ) -> None:
        """Stores whom to ask; the cap is on bytes of literals beyond those of `baseline`, once that is known.

        `claimant` names the other peer that measures a program now, by its hash; None if there is none.
        """
        self._task = task
        self._folder = folder
        self._max_literal_bytes = max_literal_bytes
        self._claimant = claimant
        self.baseline: str | None = None
        self._traced: dict[int, Candidate] = {}  # by the number of the experiment
        self._timed_out: dict[int, tuple[str, CandidateRejected]] = {}  # the latest text, and what was said of it
        self._is_closed = False

    def check(self, brief: Brief, proposal: Proposal) -> Objection | None:
        """See `proposers.base.Examine`."""
        assert proposal.source is not None
        keep_proposal(self._folder, brief, proposal)  # a kill while it is traced loses nothing that was paid for
        objection = self._objection(brief, proposal.source)
        if objection is not None:
            put_aside(self._folder, brief.experiment, REFUSED_FILE)
        return objection

    def _objection(self, brief: Brief, source: str) -> Objection | None:
        beside = threading.current_thread() is not threading.main_thread()
        if self._is_closed:
            return None
        log_dir = self._folder.log_dir(brief.experiment)
        try:
            self._require_few_literals(source)
            self._require_time(source, brief.experiment)
            candidate = self._prepare_beside(source, log_dir) if beside else self._task.prepare(source, log_dir)
        except CandidateRejected as rejection:
            if beside and rejection.status in _BUSY:
                return None
            is_time_out = rejection.status is Status.TIMEOUT
            if is_time_out:
                self._timed_out[brief.experiment] = source, rejection
            return Objection(_as_text(rejection), repeats=is_time_out)
        except Exception:  # the task's own failure, which is found and logged when the text is measured
            return None
        self._traced[brief.experiment] = candidate
        objection = repetition(brief, source, candidate.program_hash) or table_objection(brief, source)
        if objection is None and self._claimant is not None:
            objection = claimed(self._claimant(candidate.program_hash))
        return objection

    def _prepare_beside(self, source: str, log_dir: Path) -> Candidate:
        """As `Task.prepare`, at idle priority, which a thread cannot leave again: in a thread for this alone."""
        found: Future[Candidate] = Future()

        def prepare() -> None:
            try:
                with suppress(OSError):
                    priority.take_idle_time_only()
                found.set_result(self._task.prepare(source, log_dir, beside_a_trial=True))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=prepare, name="trace-ahead", daemon=True).start()
        return found.result()

    def prepare(self, source: str, experiment: int, *, beside_a_trial: bool = False) -> Candidate:
        """As `Task.prepare`, for an experiment that is about to be measured: what it is measured by is free meanwhile.

        Raises:
          CandidateRejected: it cannot be measured, and why.
        """
        self._require_few_literals(source)
        self._require_time(source, experiment)
        traced = self._traced.pop(experiment, None)
        if traced is not None and traced.source == source:
            return traced
        return self._task.prepare(source, self._folder.log_dir(experiment), beside_a_trial=beside_a_trial)

    def _require_few_literals(self, source: str) -> None:
        most = self._max_literal_bytes
        found = 0 if self.baseline is None else self._task.asset.carried_bytes(source, self.baseline, most)
        if found <= most:
            return
        reason = f"its literals, tables and names hold {found:,} bytes that the baseline's do not, more than "
        reason += f"{most:,}"
        remedy = "(--max_literal_bytes): compute arrays inside the functions, nothing carried in is an improvement"
        raise CandidateRejected(Status.REJECTED, f"{reason} {remedy}")

    def _require_time(self, source: str, experiment: int) -> None:
        """Raises what was raised for this text if its trace took too long: it is not waited for again."""
        text, rejection = self._timed_out.get(experiment, ("", None))
        if rejection is not None and text == source:
            raise rejection

    def close(self) -> None:
        """Ends the trace that another thread waits for; from then on no text is traced or objected to."""
        self._is_closed = True
        self._task.close()


def _as_text(rejection: CandidateRejected) -> str:
    return f"it cannot be measured: {clean_line(rejection.reason)}" + (
        f"\n{rejection.details}" if rejection.details else ""
    )


FAULT_FILE = "proposer_error.txt"
CLOSE_SECONDS = 3.0  # for a proposer to notice that it was closed


class Proposals:
    """Asks the proposer, for the next experiment now or for the one after it while the next one is measured.

    What a slow proposer answers is on disk before it is used, so that a kill loses no answer that was paid for.
    """

    def __init__(
        self,
        proposer: Proposer,
        folder: RunFolder,
        source_of: Callable[[int], str],
        merge: Merge,
        notice: Callable[[str], None],
        close_precheck: Callable[[], None],
    ) -> None:
        """Stores where to look and whom to ask.

        `source_of` reads an experiment's source from the ledger, in the main thread only.
        """
        self._proposer = proposer
        self._folder = folder
        self._source_of = source_of
        self._merge = merge
        self._notice = notice
        self._close_precheck = close_precheck
        self._ahead: tuple[int, Future[Made]] | None = None

    def next(self, brief: Brief) -> Proposal:
        """The next proposal, for the champion of now; raises what `Proposer.propose` does.

        Where one was asked for ahead, waits for it.
        """
        made = self._made_before(brief)
        if made is None:
            return self._ask(brief).proposal
        proposal = self._for_champion_of_now(made, brief)
        if proposal is not None:
            return proposal
        put_aside(self._folder, brief.experiment, STALE_FILE)
        self._notice(
            f"what was proposed for experiment {brief.experiment} while another was measured does not fit the new "
            "champion: asked again"
        )
        again = self._ask(brief).proposal
        return replace(again, cost_dollars=max(again.cost_dollars, made.proposal.cost_dollars))

    def has_asked(self, experiment: int) -> bool:
        """True if the proposal for an experiment was asked for already; it is bound to that number."""
        is_ahead = self._ahead is not None and self._ahead[0] == experiment
        return is_ahead or kept_proposal(self._folder, experiment) is not None

    def put_off(self, experiment: int) -> None:
        """Binds what was asked for an experiment to the next number, since certification takes this one.

        Waits for an answer that is still on its way: it is kept under the number that was asked for.
        """
        if self._ahead is not None and self._ahead[0] == experiment:
            self._wait(self._ahead[1])
            self._ahead = experiment + 1, self._ahead[1]
        path = self._folder.llm_path(experiment) / PROPOSAL_FILE
        with suppress(OSError):
            if path.exists():
                path.replace(self._folder.llm_dir(experiment + 1) / PROPOSAL_FILE)

    @property
    def is_asking(self) -> bool:
        """True while an answer that was asked for ahead is on its way."""
        return self._ahead is not None and not self._ahead[1].done()

    def look_ahead(self, brief: Brief) -> bool:
        """Begins to ask for a proposal in a thread, which `next` collects; False if that is not worth while."""
        if self.has_asked(brief.experiment) or not self._proposer.asks_ahead(brief):
            return False
        future: Future[Made] = Future()

        def ask() -> None:
            try:
                with suppress(OSError):  # whatever it starts leaves the processors to the trial, where that is allowed
                    priority.lower_priority_of_this_thread()
                future.set_result(self._ask(brief))
            except BaseException as error:
                future.set_exception(error)

        self._ahead = brief.experiment, future
        self._thread = threading.Thread(target=ask, name="look-ahead", daemon=True)
        self._thread.start()
        return True

    def close(self) -> None:
        """Ends the proposer, and what it is doing for us."""
        self._proposer.close()
        self._close_precheck()
        if self._ahead is not None:
            self._thread.join(CLOSE_SECONDS)
            self._ahead = None

    def _made_before(self, brief: Brief) -> Made | None:
        ahead, self._ahead = self._ahead, None
        made: Made | None = None
        if ahead is not None and ahead[0] == brief.experiment:
            try:
                self._wait(ahead[1])
                made = ahead[1].result()
            except KeyboardInterrupt:
                self._ahead = ahead  # is still at work
                raise
        if made is None:
            made = kept_proposal(self._folder, brief.experiment)
            if made is not None and made.proposal.finding is not None:  # perhaps of a kill before it was examined
                return None  # the same is proposed again at no cost, unless there is an objection to it
        # An optimizer that stood in for an agent did not know what was being measured: it is asked again.
        return None if made is None or made.proposal.source is None else made

    @staticmethod
    def _wait(answer: Future[Made]) -> None:
        """Waits for an answer that was asked for ahead; no trial runs, so who works on it need not yield any more."""
        if not answer.done():
            bring_sessions_forward()
            answer.exception()

    def _for_champion_of_now(self, made: Made, brief: Brief) -> Proposal | None:
        """None for one that is stale, or of a run that left its files here."""
        if made.is_for(brief.champion_source):
            return made.proposal
        try:
            base = self._source_of(made.champion)
        except UserError:
            return None
        return rebase(made.proposal, base, brief, self._merge) if made.is_for(base) else None

    def _ask(self, brief: Brief) -> Made:
        try:
            proposal = self._proposer.propose(brief)
        except (ProposalFailed, ServiceDown, SpaceExhausted):
            raise
        except UserError as error:  # such as a brief without room: to be mended while the loop goes on
            raise ProposalFailed(str(error)) from error
        except Exception as error:  # a bug in a proposer does not end the run
            log = self._folder.log_dir(brief.experiment) / FAULT_FILE
            with suppress(OSError):
                log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            words = f"{self._proposer.name} failed: {type(error).__name__}: {clean_line(str(error))}; see {log}"
            raise ProposalFailed(words) from error
        proposal = replace(proposal, proposer=proposal.proposer or self._proposer.name)
        if proposal.source is None:  # made again in no time
            return made_for(brief, proposal)
        return keep_proposal(self._folder, brief, proposal)
