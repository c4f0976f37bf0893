"""The loop: propose, measure, decide, keep or discard, repeat; every step written down before it is spent on."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from autoresearch_jax.assets.merging import known_constants
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.briefs import Asking
from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.engine.inbox import Inbox
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.recorder import Recorder
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.search import Search
from autoresearch_jax.engine.state import keep_to_settings, run_settings
from autoresearch_jax.engine.stopping import FIRST_WAIT_SECONDS, StoppingList, StopReached
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.errors import UserError
from autoresearch_jax.sanitize import clean_line

INTERRUPTED = "interrupted; the same command goes on from here"


class Loop:
    """One run, from its baseline to its stopping list, in one process or several.

    All state is in the ledger. An experiment that is not over is taken up again with its source and its seeds.
    """

    def __init__(
        self,
        parts: Parts,
        run_seed: int,
        max_experiments: int | None = None,
        asking: Asking | None = None,
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
    ) -> None:
        """Touches nothing yet; `max_experiments` replaces what program.md says of experiments."""
        self._parts = parts
        self._run_seed = run_seed
        self._recorder = Recorder(parts.ledger, parts.workspace, parts.folder, parts.task.metric)
        self._stopping = StoppingList(
            parts.ledger, lambda: parts.program.program.stops, parts.task.metric, parts.interrupts, max_experiments
        )
        self._inbox = Inbox(parts.ledger)
        self._search = Search(
            parts, self._recorder, self._stopping, self._inbox, run_seed, asking or Asking(), first_wait_seconds
        )
        self._session = 0  # its number in the ledger, once it has begun

    def run(self) -> str:
        """Works until the run ends; returns one line that says why.

        Raises:
          RunError: the baseline cannot be measured, the task fails again and again, or the disk is full or gone.
          UserError: the run was started with other settings, or git refuses.
        """
        self._keep_to_settings()
        self._search.note_ends()
        target = self._parts.ledger.left_certification().get("target")
        reason = self._in_session(lambda: self._work(target), {"target": target} if target else None)
        if (waiting := self._inbox.num_waiting()) and reason != INTERRUPTED:
            what = f"{waiting} text{'' if waiting == 1 else 's'} of `autoresearch try` not measured"
            self._parts.observer.notice(f"{what}: let the stopping list allow more, and run the same command again")
        return reason

    def measure_text(self, number: int) -> str:
        """Works until a text of the inbox is decided on; returns one line that says why it ended.

        An open experiment and the texts that came before it come first. Nothing is proposed, and nothing of the
        stopping list ends it: a person asked for this text.

        Raises:
          RunError, UserError: see `run`.
        """
        self._keep_to_settings()
        self._stopping.lift()
        left = self._parts.ledger.left_certification() or None  # is still to be completed, by `run`
        return self._in_session(lambda: self._work_on_text(number), left)

    def certify(self) -> str:
        """Certifies the champion's edits anew, with the share of trials that a run has for it; returns one line.

        The run must have ended between two experiments, and the settings must have been compared.

        Raises:
          RunError, UserError: see `run`.
        """
        since = self._search.certify_anew()
        return self._in_session(self._certify_again, {"since": since})

    def _in_session(self, work: Callable[[], str], certification: Mapping[str, Any] | None) -> str:
        ledger = self._parts.ledger
        self._recorder.settle()
        self._session = ledger.begin_session(certification)
        try:
            reason = self._until_ended(work)
        except UserError as error:
            with suppress(sqlite3.Error):  # where there is no room all the same, it ended as if it had been killed
                ledger.end_session(self._session, clean_line(str(error)))
            raise
        finally:
            self._search.close()
        ledger.end_session(self._session, reason)
        return reason

    def _keep_to_settings(self) -> None:
        parts = self._parts
        wanted = run_settings(
            parts.workspace.editable, self._run_seed, parts.task, parts.rule, parts.pruning, parts.certification
        )
        keep_to_settings(parts.ledger, parts.folder, parts.task, wanted, parts.flags)

    def _certify_again(self) -> str:
        self._search.certify()
        self._parts.ledger.note_certification(self._session, None)
        return "certified"

    def _work(self, target: str | None) -> str:
        """Searches and certifies; `target` was reached by a process that was killed while it certified."""
        self._begin_work()
        reason = ""
        while True:
            if target is None:
                self._search.search()
                reason = self._search.reason
                target = self._stopping.target_reached(self._recorder.require_champion())
                if target is not None:
                    self._parts.ledger.note_certification(self._session, {"target": target})
            self._search.certify()
            if target is None:
                return reason
            self._parts.ledger.note_certification(self._session, None)
            progress = self._stopping.progress(self._recorder.require_champion())
            if (reached := self._stopping.stop_reason(progress)) is not None:
                return f"{reached} reached"
            self._parts.observer.notice(f"{target}: not after certification, so the search goes on")
            target = None

    def _begin_work(self) -> None:
        """Measures the baseline, or completes what a killed process left of anything but an experiment."""
        if self._parts.retention is not None:
            self._parts.retention.settle()
        if self._recorder.champion is None:
            self._run_baseline()
        self._parts.precheck.baseline = self._recorder.baseline_source()

    def _work_on_text(self, number: int) -> str:
        self._begin_work()
        self._search.measure_text(number)
        return f"text {number} of the inbox is decided on"

    def _until_ended(self, work: Callable[[], str]) -> str:
        """Why some work ended, in one line."""
        try:
            return work()
        except KeyboardInterrupt:
            return INTERRUPTED
        except StopReached as stop:
            return f"{stop} reached"
        except (OSError, sqlite3.Error) as error:
            if trouble := disk_trouble(error):
                raise RunError(f"{trouble}; the same command goes on from here") from error
            raise

    def _run_baseline(self) -> None:
        """Measures what the user committed; the run stands on it."""
        experiment = next(iter(self._parts.ledger.open_experiments()), None)
        if experiment is None:
            baseline = self._parts.workspace.baseline(despite_changes=self._inbox.num_waiting() > 0)
            experiment = self._parts.ledger.begin_experiment(
                Intent(
                    kind=Kind.BASELINE,
                    source=baseline.source,
                    constants=known_constants(self._parts.task.asset, baseline.source),
                    hypothesis="baseline",
                    parent_commit=baseline.commit,
                )
            )
        self._search.complete()
        ended = self._parts.ledger.experiment(experiment.id)
        if ended.decision is not Action.KEEP:
            what = f"the baseline, {self._parts.workspace.editable} as committed,"
            raise RunError(f"{what} cannot be measured ({ended.status}): {ended.reason}")
