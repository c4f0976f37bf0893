"""Which trial comes next: what open experiments want, by its worth, and what is begun besides."""

import time
from collections.abc import Callable
from pathlib import Path

from autoresearch_jax.assets.merging import is_same_difference, known_constants, rebase_text
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.flight import Flight
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.plan import (
    Conclude,
    NextAction,
    RunTrial,
    conclude_known_program,
    is_to_be_kept,
    next_action,
    read_open_experiment,
)
from autoresearch_jax.engine.recorder import Recorder
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose
from autoresearch_jax.engine.same_program import SameProgram
from autoresearch_jax.engine.state import read_state
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import HASHED_BY, Candidate, CandidateRejected, CandidateUntouched, Status

SLOW_COMMIT_SECONDS = 2.0  # of a transaction; milliseconds are usual
DIFFERS = "it changes the same lines or constants as that, or nothing else"


class Scheduler:
    """Carries out experiments, several at a time where the executor has several slots.

    A free slot has, in this order:

    1. a trial that a killed process or a failed machine left;
    2. a run of the experiment that is about to be kept; there is one such experiment at a time;
    3. a run of the champion that a decision waits for, one at a time;
    4. a further run of a candidate;
    5. something new.
    """

    def __init__(
        self,
        parts: Parts,
        recorder: Recorder,
        flight: Flight,
        run_seed: int,
        look_ahead: Callable[[ExperimentRow], None],
    ) -> None:
        """Takes what the loop works with; `look_ahead` is told what has just begun."""
        self._parts = parts
        self._ledger = parts.ledger
        self._recorder = recorder
        self._measuring = Measuring(parts, recorder, flight, run_seed)
        self._flight = flight
        self._tell_begun = look_ahead
        self._started: dict[int, float] = {}  # `time.monotonic()` of open experiments, see `begin`
        self._has_noticed_slow_disk = False

    def go_on(self, begin: Callable[[], bool], seconds_to_wait: Callable[[], float | None] = lambda: None) -> None:
        """Runs what open experiments want, and what is begun besides; until nothing is open and nothing begun.

        Args:
          begin: called while a trial could be started and none is wanted; returns False if it begins nothing now.
          seconds_to_wait: until it may begin something then; None if only the end of a trial changes that.

        Raises:
          RunError, StopReached, KeyboardInterrupt: see `Flight.finish_one`.
        """
        while True:
            while self._flight.num_free > 0 and (self._start_wanted() or begin()):
                pass
            if self._flight.is_empty:
                return
            self._flight.finish_one(seconds_to_wait() if self._flight.num_free > 0 else None)

    def begin(self, experiment: ExperimentRow, started: float) -> None:
        """Tells that an experiment begins, once in a process; from `started` on the time is its own."""
        if experiment.id in self._started:
            return
        if not self._started:
            self._flight.started = started
        self._started[experiment.id] = started
        self._parts.observer.begins(experiment)
        self._tell_begun(experiment)

    def _start_wanted(self) -> bool:
        """Concludes experiments that can be, and starts the trial that is wanted most; False if none is."""
        wanted = self._settle()
        if left := self._flight.left():
            self._flight.take_up(left[0])
            return True
        champion = self._recorder.champion
        measured = None if champion is None else self._ledger.measured(champion).id
        if measured is not None and self._flight.num_running(measured):  # what waits for its run goes on waiting
            wanted = [(number, action) for number, action in wanted if action.of != measured]
        if not wanted:
            return False
        order = (Purpose.CHAMPION, Purpose.CERTIFY, Purpose.CANDIDATE)
        most = min(wanted, key=lambda one: (order.index(one[1].purpose), one[1].of == measured, one[0]))
        self._flight.start(*most)
        return True

    def _settle(self) -> list[tuple[int, RunTrial]]:
        """Concludes all that can be concluded; the trials that the other experiments want, each with its experiment."""
        ledger = self._ledger
        while True:
            rows, wanted, is_settled = ledger.open_experiments(), list[tuple[int, RunTrial]](), True
            if not rows:
                return []
            to_be_kept = next((row.id for row in rows if is_to_be_kept(ledger, row)), None)
            for row in rows:
                if self._flight.num_running(row.id) and row.kind is not Kind.BASELINE:
                    continue
                self.begin(row, time.monotonic())
                action = self._measuring.next(row, may_keep=to_be_kept in (None, row.id))
                if isinstance(action, Conclude):
                    self._conclude(ledger.experiment(row.id), action)
                    if action.decision.action.keeps or row.id == to_be_kept:
                        is_settled = False  # others were made from another champion, or waited for this one
                        break
                elif action is not None:
                    wanted.append((row.id, action))
                    if action.decision is not None and action.decision.action.keeps:
                        to_be_kept = row.id
            if is_settled:
                return wanted

    def _conclude(self, experiment: ExperimentRow, conclusion: Conclude) -> None:
        """Enters what came of an experiment in the books."""
        row = self._recorder.conclude(experiment, conclusion, self._started.pop(experiment.id))
        if self._parts.retention is not None:
            self._parts.retention.apply(row)
        self._parts.observer.ends(row)
        self._notice_slow_disk()

    def _notice_slow_disk(self) -> None:
        """Says once that the disk is slow, which costs time."""
        seconds = self._ledger.slowest_commit_seconds
        if seconds > SLOW_COMMIT_SECONDS and not self._has_noticed_slow_disk:
            self._has_noticed_slow_disk = True
            remedy = "`autoresearch doctor` measures it, --run_dir may be on another"
            self._parts.observer.notice(
                f"{self._parts.folder.ledger}: the disk took {seconds:.1f} s for one write; {remedy}"
            )


class Measuring:
    """What open experiments of one run want next, under one rule; all follows from the ledger."""

    def __init__(self, parts: Parts, recorder: Recorder, flight: Flight, run_seed: int) -> None:
        """Takes what the loop works with; gives `flight` what is ready to measure."""
        self._parts = parts
        self._ledger = parts.ledger
        self._recorder = recorder
        self._run_seed = run_seed
        self._flight = flight
        flight.ready = self._ready
        self._prepared: dict[int, Candidate] = {}  # open experiments, and the champion
        self._held: dict[int, int | None] = {}  # the champion upon which an experiment was last held back
        self._same_program = SameProgram(
            parts.task, parts.ledger, parts.folder, parts.disk, parts.interrupts, self._flight.task_failed
        )

    def next(self, experiment: ExperimentRow, *, may_keep: bool) -> NextAction | None:
        """What an open experiment wants now; prepares it first.

        One that was made from an earlier champion, and is not discarded, is moved to the one of now.

        Args:
          experiment: none of whose trials runs, unless it is the baseline.
          may_keep: False while another one is about to become the champion.

        Returns:
          The action; None where it has to wait: for the one that is about to become champion, or, the baseline, for its
          own trials.

        Raises:
          RunError: the task failed too often, or the disk has no room; the experiment stays open.
          StopReached: the machine failed until the run was over; the experiment stays open.
          KeyboardInterrupt: the process was asked to end; the experiment stays open.
        """
        champion = self._recorder.champion
        upon = None if champion is None else champion.id
        if not may_keep and self._held.get(experiment.id, -1) == upon:
            return None
        self._held.pop(experiment.id, None)
        action = self._next(experiment, champion, may_keep=may_keep)
        if not may_keep and action is not None and _keeps(action):
            self._held[experiment.id] = upon
            return None
        if isinstance(action, Conclude):
            self._flight.drop(experiment, action.status, action.decision.reason)
            kept = experiment if _keeps(action) and action.status is Status.OK else champion
            wanted = {row.id for row in self._ledger.open_experiments()} - {experiment.id}
            if kept is not None:
                wanted.add(self._ledger.measured(kept).id)
            self._prepared = {number: ready for number, ready in self._prepared.items() if number in wanted}
        return action

    def _next(self, experiment: ExperimentRow, champion: ExperimentRow | None, *, may_keep: bool) -> NextAction | None:
        is_stale = champion is not None and experiment.parent != champion.id
        if experiment.id not in self._prepared:
            if champion is not None and is_stale and not self._ledger.trials(experiment.id):
                if (source := self._rebased(experiment, champion)) is None:
                    return self._stale(experiment, champion, DIFFERS)
                constants = known_constants(self._parts.task.asset, source)
                experiment, is_stale = self._ledger.move(experiment.id, champion, source, constants, None), False
            if (conclusion := self._prepare(experiment)) is not None:
                if champion is not None and is_stale and _keeps(conclusion):
                    return self._stale(experiment, champion, DIFFERS)
                return conclusion
        action = self._decide(experiment.id)
        if not is_stale or action is None or (isinstance(action, Conclude) and not _keeps(action)):
            return action
        if _keeps(action) and not may_keep:
            return action
        assert champion is not None
        return self._move(experiment, champion) or self._decide(experiment.id)

    def _decide(self, number: int) -> NextAction | None:
        """What plan.py says, and whether the text still becomes the same program where it is to be kept."""
        parts, state = self._parts, read_state(self._ledger)
        experiment = self._ledger.experiment(number)
        found = read_open_experiment(self._ledger, experiment, state, parts.program.program)
        action = next_action(state, found, parts.rule, parts.task.metric, self._run_seed)
        if action is None:
            return None
        return self._same_program.refusal(experiment, self._prepared[number], action) or action

    def _prepare(self, experiment: ExperimentRow) -> Conclude | None:
        """Makes an experiment ready to measure; returns how it ends if there is nothing to measure."""
        parts = self._parts
        parts.disk.require_room()
        page, champion = parts.program.program, self._recorder.champion
        if champion is not None and (twin := self._same_program.known(experiment)) is not None:
            same = champion if champion.program_hash == twin.program_hash else None
            if (known := conclude_known_program(self._ledger, experiment, twin, same, page)) is not None:
                self._ledger.set_program(experiment.id, twin.program_hash)
                return known
        candidate = self._trace(experiment, self._ledger.source(experiment.id))
        if isinstance(candidate, Conclude):
            return candidate
        with parts.interrupts.allowed():
            same = self._same_program.champion(experiment, candidate, champion)
        program_hash = candidate.program_hash if same is None else same.program_hash
        assert program_hash is not None
        self._ledger.set_program(experiment.id, program_hash)
        known = conclude_known_program(self._ledger, experiment, candidate, same, page)
        if known is not None:
            return self._same_program.refusal(experiment, candidate, known) or known
        self._prepared[experiment.id] = candidate
        return None

    def _trace(self, experiment: ExperimentRow, source: str) -> Candidate | Conclude:
        """The program of a text; how the experiment ends if it has none."""
        parts = self._parts
        while True:
            try:
                with parts.interrupts.allowed():
                    beside = not self._flight.is_empty
                    return parts.precheck.prepare(source, experiment.id, beside_a_trial=beside)
            except CandidateRejected as rejection:
                parts.disk.require_room()  # a full disk is no candidate's fault
                if rejection.details:
                    log = parts.folder.log_dir(experiment.id) / "rejected.txt"
                    log.write_text(rejection.details, encoding="utf-8")
                return Conclude(rejection.status, Decision(Action.DISCARD, rejection.reason))
            except Exception as error:
                failure = self._flight.task_failed(experiment, error)
                if not isinstance(error, CandidateUntouched):
                    return Conclude(Status.CRASH, Decision(Action.DISCARD, failure))

    def _move(self, experiment: ExperimentRow, champion: ExperimentRow) -> Conclude | None:
        """Moves an experiment to the champion of now by a three-way merge.

        Finished trials count as runs upon the former. Returns how it ends if it cannot be.
        """
        source = self._rebased(experiment, champion)
        if source is None:
            return self._stale(experiment, champion, DIFFERS)
        candidate = self._trace(experiment, source)
        if isinstance(candidate, Conclude):
            return self._stale(experiment, champion, f"it cannot be measured upon that: {candidate.decision.reason}")
        if (known := self._known(experiment, champion, candidate.program_hash)) is not None:
            return self._stale(experiment, champion, f"upon that it is the program of experiment {known}")
        constants = known_constants(self._parts.task.asset, source)
        self._ledger.move(experiment.id, champion, source, constants, candidate.program_hash)
        self._prepared[experiment.id] = candidate
        return None

    def _rebased(self, experiment: ExperimentRow, champion: ExperimentRow) -> str | None:
        """The text with the same change of another champion; None if there is none.

        What was measured has to be all of the change: a part that the champion has, too, would count twice.
        """
        assert experiment.parent is not None
        text, base, now = (self._ledger.source(number) for number in (experiment.id, experiment.parent, champion.id))
        moved = rebase_text(self._parts.task.asset, text, base, now, self._parts.workspace.merge)
        if moved is None or not self._ledger.trials(experiment.id) or is_same_difference(base, text, (now, moved)):
            return moved
        return None

    def _known(self, experiment: ExperimentRow, champion: ExperimentRow, program_hash: str) -> int | None:
        """The champion, or another experiment, that has a program; a revert may measure an earlier one again."""
        if champion.program_hash == program_hash:
            return champion.id
        if experiment.kind is Kind.REVERT:
            return None
        others = (row for row in self._ledger.open_experiments() if row.id != experiment.id)
        found = next((row for row in others if row.program_hash == program_hash), None)
        twin = found or self._ledger.scored_twin(program_hash, before=experiment.id)
        return None if twin is None else twin.id

    def _stale(self, experiment: ExperimentRow, champion: ExperimentRow, why: str) -> Conclude:
        is_measured = any(trial.value is not None for trial in self._ledger.trials(experiment.id))
        reason = f"stale: experiment {champion.id} became champion meanwhile; {clean_line(why)}"
        return Conclude(Status.OK if is_measured else Status.REJECTED, Decision(Action.DISCARD, reason))

    def _ready(self, experiment: int) -> Candidate:
        """An experiment that can be measured; the champion of an earlier process is prepared again.

        Raises CandidateRejected if it is refused now; RunError if it has become another program.
        """
        if experiment not in self._prepared:
            log_dir: Path = self._parts.folder.log_dir(experiment)
            beside = not self._flight.is_empty
            candidate = self._parts.task.prepare(self._ledger.source(experiment), log_dir, beside_a_trial=beside)
            then, hashed_by = self._ledger.experiment(experiment).program_hash, candidate.facts.get(HASHED_BY)
            is_comparable = self._ledger.trials(experiment)[0].metrics.get(HASHED_BY) == hashed_by
            if candidate.program_hash != then and is_comparable:
                raise RunError(
                    f"the champion (experiment {experiment}) is another program now ({candidate.program_hash}) than "
                    f"when it was measured ({then}): go on where the task is as it was, or use another --tag"
                )
            self._prepared[experiment] = candidate
        return self._prepared[experiment]


def _keeps(action: NextAction) -> bool:
    return action.decision is not None and action.decision.action.keeps
