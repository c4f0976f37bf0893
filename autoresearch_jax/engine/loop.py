"""The loop: propose, measure, decide, keep or discard, repeat; every step written down before it is spent on."""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from autoresearch_jax.assets.merging import known_constants
from autoresearch_jax.decide.certification import MeasureChampion
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.briefs import Asking, as_running, make_brief
from autoresearch_jax.engine.certifying import Certifying, revert_intent, take_out
from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.engine.inbox import Inbox
from autoresearch_jax.engine.limits import ends_in_words, limits_left
from autoresearch_jax.engine.measuring import Measuring, Parts
from autoresearch_jax.engine.proposals import Proposals
from autoresearch_jax.engine.recorder import Entries, Recorder
from autoresearch_jax.engine.records import ExperimentRow, Intent, Kind
from autoresearch_jax.engine.state import keep_to_settings, note_ends, run_settings, settled_constants
from autoresearch_jax.engine.stopping import FIRST_WAIT_SECONDS, ProposalWaits, StoppingList, StopReached
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import (
    Brief,
    ProposalFailed,
    ServiceDown,
    SpaceExhausted,
)
from autoresearch_jax.proposers.space import Constant
from autoresearch_jax.sanitize import clean_line

INTERRUPTED = "interrupted; the same command goes on from here"
SLOW_COMMIT_SECONDS = 2.0  # of a transaction; milliseconds are usual


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
        self._asking = asking or Asking()
        self._latest_brief: Brief | None = None
        self._has_noticed_slow_disk = False
        self._recorder = Recorder(parts.ledger, parts.workspace, parts.folder, parts.task.metric)
        self._stopping = StoppingList(
            parts.ledger, lambda: parts.program.program.stops, parts.task.metric, parts.interrupts, max_experiments
        )
        self._inbox = Inbox(parts.ledger)
        self._entries = Entries(
            self._recorder, self._inbox, parts.workspace.merge, parts.proposer.name, parts.observer.ends
        )
        self._waits = ProposalWaits(self._stopping, parts.observer, first_wait_seconds, self._inbox.num_waiting)
        notice, merge = parts.observer.notice, parts.workspace.merge
        self._proposals = Proposals(
            parts.proposer, parts.folder, parts.ledger.source, merge, notice, parts.precheck.close
        )
        self._measuring = Measuring(parts, self._recorder, self._stopping, run_seed, first_wait_seconds)
        self._certifying = Certifying(parts.ledger, parts.certification)
        self._ends: str | None = None  # what ends the run, as it was told last
        self._session = 0  # its number in the ledger, once it has begun

    def run(self) -> str:
        """Works until the run ends; returns one line that says why.

        Raises:
          RunError: the baseline cannot be measured, the task fails again and again, or the disk is full or gone.
          UserError: the run was started with other settings, or git refuses.
        """
        self._keep_to_settings()
        self._note_ends()
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
        since = self._certifying.begin_anew()
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
            self._proposals.close()
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
        self._parts.ledger.note_certification(self._session, None)
        return "certified"

    def _certify_to_the_end(self) -> None:
        """Takes all steps of certification that are left, the one that a killed process began first."""
        self._end_open_trial()
        if (experiment := self._parts.ledger.open_experiment()) is not None:
            self._carry_out(experiment, time.monotonic())
        while self._certify(at_end=True):
            pass

    def _end_open_trial(self) -> None:
        """Takes up a run of the champion that a killed process left, if it belongs to no experiment."""
        if self._parts.ledger.open_experiment() is None and self._parts.ledger.open_trial() is not None:
            self._measure_champion(self._recorder.require_champion())

    def _measure_champion(self, champion: ExperimentRow) -> None:
        """Runs the champion once more; its snapshots are kept as those of an experiment that has just ended."""
        self._measuring.measure_champion(champion)
        if self._parts.retention is not None:
            self._parts.retention.apply(self._parts.ledger.measured(champion))

    def _work(self, target: str | None) -> str:
        """Searches and certifies; `target` was reached by a process that was killed while it certified."""
        self._begin_work()
        reason = ""
        while True:
            if target is None:
                while (ended := self._advance()) is None:
                    pass
                reason = ended
                target = self._stopping.target_reached(self._recorder.require_champion())
                if target is not None:
                    self._parts.ledger.note_certification(self._session, {"target": target})
            self._certify_to_the_end()
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
        self._end_open_trial()

    def _work_on_text(self, number: int) -> str:
        self._begin_work()
        while not self._inbox.is_over(number):
            started = time.monotonic()
            experiment = self._parts.ledger.open_experiment() or self._begin_by_hand(started)
            if experiment is not None and experiment.is_open:
                self._carry_out(experiment, started)
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
        experiment = self._parts.ledger.open_experiment()
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
        ended = self._carry_out(experiment, time.monotonic())
        if ended.decision is not Action.KEEP:
            what = f"the baseline, {self._parts.workspace.editable} as committed,"
            raise RunError(f"{what} cannot be measured ({ended.status}): {ended.reason}")

    def _advance(self) -> str | None:
        """Carries out one experiment, or waits; returns why the run is over, or None."""
        started = time.monotonic() if self._waits.since is None else self._waits.since
        experiment = self._parts.ledger.open_experiment()
        if experiment is None:
            champion = self._recorder.require_champion()
            space = self._refresh_space(champion)
            waited = time.monotonic() - started
            progress = self._stopping.progress(champion, waited_seconds=waited + self._certifying.seconds_needed())
            if (reason := self._stopping.stop_reason(progress)) is not None:
                return f"{reason} reached"
            if self._certify(at_end=False):
                return None
            experiment = self._begin_by_hand(started)
        if experiment is None:
            brief = self._latest_brief = self._brief(champion, space)
            try:
                with self._parts.interrupts.allowed():
                    proposal = self._proposals.next(brief)
            except SpaceExhausted as exhausted:
                return str(exhausted)
            except ServiceDown as down:
                self._waits.wait_for_service(down, champion, started)
                return None
            except ProposalFailed as failure:
                self._entries.enter_failure(champion, brief, failure, started)
                self._waits.failed(failure, champion)
                return None
            self._waits.proposed()
            experiment = self._entries.begin(champion, brief, proposal, started)
        if experiment.is_open:
            self._carry_out(experiment, started)
        return None

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
        note_ends(self._parts.ledger, self._parts.folder, ends)
        self._parts.observer.notice(f"what ends the run{since}: {ends}")

    def _certify(self, *, at_end: bool) -> bool:
        """Takes one step of certification; False if there is none to take."""
        ledger, champion = self._parts.ledger, self._recorder.require_champion()
        if not at_end and self._proposals.has_asked(self._parts.ledger.next_number()):
            return False
        step = self._certifying.next_step(at_end=at_end)
        if step is None or (at_end and not self._certifying.is_anew and self._stopping.is_out_of_time(champion)):
            return False
        if isinstance(step, MeasureChampion):
            self._measure_champion(champion)
            return True
        started = time.monotonic()
        edits, source, obstacles = take_out(ledger, step.edits, self._parts.workspace.merge)
        experiment, asset = None, self._parts.task.asset
        first = self._parts.ledger.next_number()
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
            self._carry_out(experiment, started)
        return True

    def _brief(self, champion: ExperimentRow, space: Sequence[Constant]) -> Brief:
        """What a proposer is told."""
        parts = self._parts
        return make_brief(
            parts.ledger,
            parts.folder,
            experiment=self._parts.ledger.next_number(),
            program=parts.program.program.for_agents,
            space=space,
            limits_left=limits_left(self._stopping.stops(), self._stopping.progress(champion)),
            asking=self._asking,
        )

    def _look_ahead(self, running: ExperimentRow) -> None:
        """Has the experiment after this one thought of meanwhile, if there will be one."""
        champion = self._recorder.champion
        if running.kind is not Kind.PROPOSAL or champion is None or self._certifying.may_come_next():
            return
        if self._stopping.is_lifted or self._inbox.num_waiting():  # nothing is proposed; a text is next
            return
        progress = self._stopping.progress(champion, more_experiments=1)
        if self._stopping.stop_reason(progress) is not None:
            return
        brief = self._latest_brief
        if brief is None or brief.experiment != running.id:  # an earlier process began it
            brief = self._brief(champion, self._refresh_space(champion))
        ahead = replace(
            brief,
            experiment=running.id + 1,
            running=[as_running(running)],
            limits_left=limits_left(self._stopping.stops(), progress),
        )
        self._proposals.look_ahead(ahead)

    def _begin_by_hand(self, started: float) -> ExperimentRow | None:
        """Takes the next text of the inbox up; None if none waits."""
        text = self._inbox.oldest()
        if text is None:
            return None
        self._waits.interrupted()
        with self._parts.interrupts.allowed():  # an answer that is on its way is waited for
            self._proposals.put_off(self._parts.ledger.next_number())
        return self._entries.begin_text(self._recorder.require_champion(), text, started)

    def _carry_out(self, experiment: ExperimentRow, started: float) -> ExperimentRow:
        """Measures an experiment and enters what came of it in the books."""
        self._parts.observer.begins(experiment)
        self._look_ahead(experiment)
        conclusion = self._measuring.evaluate(experiment)
        row = self._recorder.conclude(experiment, conclusion, started)
        if self._parts.retention is not None:
            self._parts.retention.apply(row)
        self._parts.observer.ends(row)
        self._notice_slow_disk()
        return row

    def _notice_slow_disk(self) -> None:
        """Says once that the disk is slow, which costs time."""
        seconds = self._parts.ledger.slowest_commit_seconds
        if seconds > SLOW_COMMIT_SECONDS and not self._has_noticed_slow_disk:
            self._has_noticed_slow_disk = True
            remedy = "`autoresearch doctor` measures it, --run_dir may be on another"
            self._parts.observer.notice(
                f"{self._parts.folder.ledger}: the disk took {seconds:.1f} s for one write; {remedy}"
            )
