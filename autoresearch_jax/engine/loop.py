"""The loop: propose, measure, decide, keep or discard, repeat; every step written down before it is spent on."""

import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from autoresearch_jax.assets.merging import known_constants
from autoresearch_jax.decide.certification import MeasureChampion
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.briefs import Asking, make_brief, running_proposals
from autoresearch_jax.engine.certifying import Certifying, revert_intent, take_out
from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.engine.flight import Flight
from autoresearch_jax.engine.inbox import Inbox
from autoresearch_jax.engine.limits import ends_in_words, limits_left
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.plan import champion_trial, is_to_be_kept
from autoresearch_jax.engine.proposals import Proposals
from autoresearch_jax.engine.recorder import Entries, Recorder
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind, Purpose
from autoresearch_jax.engine.scheduler import Scheduler
from autoresearch_jax.engine.state import keep_to_settings, note_ends, read_state, run_settings, settled_constants
from autoresearch_jax.engine.stopping import (
    FIRST_WAIT_SECONDS,
    WAIT_STEP_SECONDS,
    ProposalWaits,
    StoppingList,
    StopReached,
)
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import Brief, ProposalFailed, ServiceDown, SpaceExhausted
from autoresearch_jax.proposers.space import Constant
from autoresearch_jax.sanitize import clean_line

INTERRUPTED = "interrupted; the same command goes on from here"
POLL_SECONDS = 0.1  # between two looks whether an agent has answered, while trials run


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
        self._ledger = parts.ledger
        self._run_seed = run_seed
        self._recorder = Recorder(parts.ledger, parts.workspace, parts.folder, parts.task.metric)
        self._stopping = StoppingList(
            parts.ledger, lambda: parts.program.program.stops, parts.task.metric, parts.interrupts, max_experiments
        )
        self._inbox = Inbox(parts.ledger)
        self._asking = asking or Asking()
        self._latest_brief: Brief | None = None
        notice, merge = parts.observer.notice, parts.workspace.merge
        self._entries = Entries(self._recorder, self._inbox, merge, parts.proposer.name, parts.observer.ends)
        self._waits = ProposalWaits(self._stopping, parts.observer, first_wait_seconds, self._inbox.num_waiting)
        self._proposals = Proposals(
            parts.proposer, parts.folder, parts.ledger.source, merge, notice, parts.precheck.close
        )
        self._flight = Flight(parts, self._recorder, self._stopping, first_wait_seconds)
        self._scheduler = Scheduler(parts, self._recorder, self._flight, run_seed, self._look_ahead)
        self._certifying = Certifying(parts.ledger, parts.certification)
        self._ends: str | None = None  # what ends the run, as it was told last
        self._reason = ""  # why nothing more is begun, one line
        self._session = 0  # its number in the ledger, once it has begun

    def run(self) -> str:
        """Works until the run ends; returns one line that says why.

        Raises:
          RunError: the baseline cannot be measured, the task fails again and again, or the disk is full or gone.
          UserError: the run was started with other settings, or git refuses.
        """
        self._keep_to_settings()
        self._note_ends()
        target = self._ledger.left_certification().get("target")
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
        left = self._ledger.left_certification() or None  # is still to be completed, by `run`
        return self._in_session(lambda: self._work_on_text(number), left)

    def certify(self) -> str:
        """Certifies the champion's edits anew, with the share of trials that a run has for it; returns one line.

        The run must have ended between two experiments, and the settings must have been compared.

        Raises:
          RunError, UserError: see `run`.
        """
        since = self._certifying.begin_anew()
        return self._in_session(self._certify_again, {"since": since})

    def _in_session(self, work: Callable[[], str], certification: Mapping[str, Any] | None) -> str:
        ledger = self._ledger
        self._recorder.settle()
        self._session = ledger.begin_session(certification)
        try:
            reason = self._until_ended(work)
        except UserError as error:
            with suppress(sqlite3.Error):  # where there is no room all the same, it ended as if it had been killed
                ledger.end_session(self._session, clean_line(str(error)))
            raise
        finally:
            self._proposals.close()
            self._flight.abandon()
        ledger.end_session(self._session, reason)
        return reason

    def _keep_to_settings(self) -> None:
        parts = self._parts
        wanted = run_settings(
            parts.workspace.editable, self._run_seed, parts.task, parts.rule, parts.pruning, parts.certification
        )
        keep_to_settings(parts.ledger, parts.folder, parts.task, wanted, parts.flags)

    def _certify_again(self) -> str:
        self._certify_to_the_end()
        self._ledger.note_certification(self._session, None)
        return "certified"

    def _certify_to_the_end(self) -> None:
        """Takes all steps of certification that are left, those that a killed process began first."""
        self._scheduler.go_on(lambda: self._certify(at_end=True))

    def _work(self, target: str | None) -> str:
        """Searches and certifies; `target` was reached by a process that was killed while it certified."""
        self._begin_work()
        reason = ""
        while True:
            if target is None:
                self._scheduler.go_on(self._begin_next, self._seconds_to_wait)
                reason = self._reason
                target = self._stopping.target_reached(self._recorder.require_champion())
                if target is not None:
                    self._ledger.note_certification(self._session, {"target": target})
            self._certify_to_the_end()
            if target is None:
                return reason
            self._ledger.note_certification(self._session, None)
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
        self._scheduler.go_on(lambda: self._begin_by_hand(time.monotonic(), up_to=number))
        return f"text {number} of the queue is decided on"

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
        experiment = next(iter(self._ledger.open_experiments()), None)
        if experiment is None:
            baseline = self._parts.workspace.baseline(despite_changes=self._inbox.num_waiting() > 0)
            experiment = self._ledger.begin_experiment(
                Intent(
                    kind=Kind.BASELINE,
                    source=baseline.source,
                    constants=known_constants(self._parts.task.asset, baseline.source),
                    hypothesis="baseline",
                    parent_commit=baseline.commit,
                )
            )
        self._scheduler.go_on(lambda: False)
        ended = self._ledger.experiment(experiment.id)
        if ended.decision is not Action.KEEP:
            what = f"the baseline, {self._parts.workspace.editable} as committed,"
            raise RunError(f"{what} cannot be measured ({ended.status}): {ended.reason}")

    def _begin_next(self) -> bool:
        """Begins the next experiment of the search; False if none can be begun now, `_reason` says why."""
        started = time.monotonic() if self._waits.since is None else self._waits.since
        champion = self._recorder.require_champion()
        space = self._refresh_space(champion)
        now = time.monotonic()
        rows = self._ledger.open_experiments()
        waited = now - (self._flight.since if rows else started)
        needed = self._certifying.seconds_needed(self._parts.executor.slots)
        num_open = sum(row.kind is Kind.PROPOSAL for row in rows)
        progress = self._stopping.progress(champion, waited_seconds=waited + needed, more_experiments=num_open)
        if (reason := self._stopping.stop_reason(progress)) is not None:
            self._reason = f"{reason} reached"
            return False
        return self._certify(at_end=False) or self._begin_by_hand(started) or self._propose(champion, space, started)

    def _propose(self, champion: ExperimentRow, space: Sequence[Constant], started: float) -> bool:
        """Begins what is proposed, or waits where nothing is; False if that may take long and trials run meanwhile."""
        beside_trials = not self._flight.is_empty
        if beside_trials and (self._waits.seconds_left or self._proposals.is_asking):
            return False
        brief = self._latest_brief = self._brief(champion, space)
        if beside_trials and self._proposals.look_ahead(brief):
            return False
        try:
            with self._parts.interrupts.allowed():
                proposal = self._proposals.next(brief)
        except SpaceExhausted as exhausted:
            self._reason = str(exhausted)
            return False
        except ServiceDown as down:
            self._waits.wait_for_service(down, champion, started, beside_trials=beside_trials)
            return not beside_trials
        except ProposalFailed as failure:
            self._entries.enter_failure(champion, brief, failure, started)
            self._waits.failed(failure, champion, beside_trials=beside_trials)
            return True
        self._waits.proposed()
        experiment = self._entries.begin(champion, brief, proposal, started)
        if experiment.is_open:
            self._scheduler.begin(experiment, started)
        return True

    def _seconds_to_wait(self) -> float:
        """Until something may be begun that cannot be now, such as a text that is handed in meanwhile."""
        if self._proposals.is_asking:
            return POLL_SECONDS
        return self._waits.seconds_left or WAIT_STEP_SECONDS

    def _refresh_space(self, champion: ExperimentRow) -> Sequence[Constant]:
        """Reads program.md again: what may be moved, and what ends the run; tells where that has changed."""
        parts = self._parts
        source, settled = parts.ledger.source(champion.id), settled_constants(parts.ledger)
        space = parts.program.refresh(parts.task.asset, source, settled, parts.task.metric.name, parts.observer.notice)
        self._note_ends()
        return space

    def _note_ends(self) -> None:
        """Stores and tells what ends the run, where it is something else than at the last look."""
        ends = ends_in_words(self._stopping.stops())
        if ends == self._ends:
            return
        since = "" if self._ends is None else " from here on"
        self._ends = ends
        note_ends(self._ledger, self._parts.folder, ends)
        self._parts.observer.notice(f"what ends the run{since}: {ends}")

    def _certify(self, *, at_end: bool) -> bool:
        """Takes one step of certification; False if there is none to take now."""
        ledger, champion = self._ledger, self._recorder.require_champion()
        if not at_end and self._proposals.has_asked(ledger.next_number()):
            return False
        step = self._certifying.next_step(at_end=at_end)
        if step is None or (at_end and not self._certifying.is_anew and self._stopping.is_out_of_time(champion)):
            return False
        rows = ledger.open_experiments()
        if isinstance(step, MeasureChampion):  # of which none says anything once a revert is kept
            return not rows and self._measure_champion(champion)
        if (at_end and not self._flight.is_empty) or any(
            row.kind is Kind.REVERT or is_to_be_kept(ledger, row) for row in rows
        ):
            return False
        self._take_out(champion, step.edits)
        return True

    def _measure_champion(self, champion: ExperimentRow) -> bool:
        """Starts a run of the champion, to know its score better; False if enough of them run."""
        state, measured = read_state(self._ledger), self._ledger.measured(champion)
        running = [trial.seed for trial in self._ledger.open_trials() if trial.experiment == measured.id]
        if state is None or len(running) >= self._certifying.champion_runs_left():
            return False
        if self._flight.is_empty:
            self._flight.started = time.monotonic()
        trial = champion_trial(state, Purpose.CERTIFY, self._run_seed, running=running)
        self._flight.start(champion.id, trial)
        return True

    def _take_out(self, champion: ExperimentRow, without: Sequence[int]) -> None:
        """Begins an experiment that is the champion without some edits."""
        ledger, started = self._ledger, time.monotonic()
        edits, source, obstacles = take_out(ledger, without, self._parts.workspace.merge)
        experiment, asset = None, self._parts.task.asset
        first = ledger.next_number()
        for number in range(first, first + len(obstacles) + bool(edits)):
            self._proposals.put_off(number)
        with ledger.transaction():  # all of a step or nothing survives a kill
            for number, obstacle in obstacles.items():
                intent = revert_intent(champion, [ledger.experiment(number)], ledger.source(champion.id), asset)
                self._entries.reject(replace(intent, constants={}), obstacle, started)
            if edits:
                rows = [ledger.experiment(number) for number in edits]
                experiment = ledger.begin_experiment(revert_intent(champion, rows, source, asset))
        if experiment is not None:
            self._scheduler.begin(experiment, started)

    def _brief(self, champion: ExperimentRow, space: Sequence[Constant]) -> Brief:
        """What a proposer is told."""
        out = sum(row.kind is Kind.PROPOSAL for row in self._ledger.open_experiments())
        progress = self._stopping.progress(champion, more_experiments=out)
        return make_brief(
            self._ledger,
            self._parts.folder,
            experiment=self._ledger.next_number(),
            program=self._parts.program.program.for_agents,
            space=space,
            limits_left=limits_left(self._stopping.stops(), progress),
            asking=self._asking,
        )

    def _look_ahead(self, running: ExperimentRow) -> None:
        """Has the next experiment thought of while one runs, if there will be one."""
        champion = self._recorder.champion
        if running.kind is not Kind.PROPOSAL or champion is None or self._certifying.may_come_next():
            return
        if self._stopping.is_lifted or self._inbox.num_waiting():  # nothing is proposed; a text is next
            return
        out = running_proposals(self._ledger)
        progress = self._stopping.progress(champion, more_experiments=len(out))
        if self._stopping.stop_reason(progress) is not None:
            return
        brief = self._latest_brief
        if brief is None or brief.experiment != running.id:  # an earlier process began it
            brief = self._brief(champion, self._refresh_space(champion))
        limits = limits_left(self._stopping.stops(), progress)
        number = self._ledger.next_number()
        self._proposals.look_ahead(replace(brief, experiment=number, running=out, limits_left=limits))

    def _begin_by_hand(self, started: float, up_to: float = math.inf) -> bool:
        """Takes the next text of the inbox up; False if none with a number up to `up_to` waits."""
        text = self._inbox.oldest()
        if text is None or text.id > up_to:
            return False
        self._waits.interrupted()
        with self._parts.interrupts.allowed():  # an answer that is on its way is waited for
            self._proposals.put_off(self._ledger.next_number())
        experiment = self._entries.begin_text(self._recorder.require_champion(), text, started)
        if experiment.is_open:
            self._scheduler.begin(experiment, started)
        return True
