"""Tries a text before it is proposed, so that what cannot be measured goes back to whoever wrote it."""

import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.simplicity import syntax_nodes
from autoresearch_jax.engine.stored_proposals import REFUSED_FILE, keep_proposal, put_aside
from autoresearch_jax.engine.task import Task
from autoresearch_jax.proposers.base import Brief, Objection, Outcome, Proposal
from autoresearch_jax.sandbox import linux
from autoresearch_jax.sanitize import clean_line, quoted
from autoresearch_jax.types import SCORE_DECIMALS, Candidate, CandidateRejected, Status

# What may be the fault of a machine that is busy with a trial beside it: no reason to object.
_BUSY = (Status.TIMEOUT, Status.OOM)


class Examiner:
    """Traces texts, in the main thread or beside a trial.

    What was traced last for an experiment is not traced again when it is measured.
    """

    def __init__(self, task: Task, folder: RunFolder) -> None:
        self._task = task
        self._folder = folder
        self._traced: dict[int, Candidate] = {}  # by the number of the experiment
        self._is_closed = False

    def examine(self, brief: Brief, proposal: Proposal) -> Objection | None:
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
            candidate = self._prepare_beside(source, log_dir) if beside else self._task.prepare(source, log_dir)
        except CandidateRejected as rejection:
            if beside and rejection.status in _BUSY:
                return None
            return Objection(_as_text(rejection))
        except Exception:  # the task's own failure, which is found and logged when the text is measured
            return None
        self._traced[brief.experiment] = candidate
        return _repetition(brief, source, candidate.program_hash)

    def _prepare_beside(self, source: str, log_dir: Path) -> Candidate:
        """As `Task.prepare`, in time that the trial leaves; in a thread of its own, for such a one never gets more."""
        found: Future[Candidate] = Future()

        def prepare() -> None:
            try:
                with suppress(OSError):
                    linux.take_idle_time_only()
                found.set_result(self._task.prepare(source, log_dir, beside_a_trial=True))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=prepare, name="trace-ahead", daemon=True).start()
        return found.result()

    def prepare(self, source: str, experiment: int) -> Candidate:
        """As `Task.prepare`, for an experiment that is about to be measured.

        Raises:
          CandidateRejected: it cannot be measured, and why.
        """
        traced = self._traced.pop(experiment, None)
        if traced is not None and traced.source == source:
            return traced
        return self._task.prepare(source, self._folder.log_dir(experiment))

    def close(self) -> None:
        """Ends the trace that another thread waits for, and has no text traced any more: none is objected to then."""
        self._is_closed = True
        self._task.close()


def _as_text(rejection: CandidateRejected) -> str:
    return f"it cannot be measured: {clean_line(rejection.reason)}" + (
        f"\n{rejection.details}" if rejection.details else ""
    )


def _repetition(brief: Brief, source: str, program_hash: str) -> Objection | None:
    """An objection to a program that was measured before, or refused; not to the champion's in a shorter text."""
    before = [outcome for outcome in brief.history if outcome.program_hash == program_hash]
    if not before:
        return None
    champion = [outcome for outcome in brief.history if outcome.kept][-1]
    if champion.program_hash != program_hash:
        return Objection(f"it is the same program as {_words(before[0])}: propose something else", repeats=True)
    listed = [constant.name for constant in brief.space]
    nodes, champion_nodes = syntax_nodes(source, listed), syntax_nodes(brief.champion_source, listed)
    if nodes is not None and champion_nodes is not None and nodes < champion_nodes:
        return None
    return Objection(
        f"it changes nothing: it is the champion's own program ({_words(champion)}) in a text that is no shorter",
        repeats=True,
    )


def _words(outcome: Outcome) -> str:
    became = "kept" if outcome.kept else "discarded" if outcome.status is Status.OK else str(outcome.status)
    score = "" if outcome.score is None else f" with {round(outcome.score, SCORE_DECIMALS)}"
    return f"experiment {outcome.experiment}, {quoted(outcome.hypothesis)}, which was {became}{score}"
