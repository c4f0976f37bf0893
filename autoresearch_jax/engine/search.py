"""What a run begins: texts that people handed in, certification's steps, proposals."""

import time
from collections.abc import Sequence
from dataclasses import replace

from autoresearch_jax.decide.certification import MeasureChampion
from autoresearch_jax.engine.briefs import Asking, make_brief, running_proposals
from autoresearch_jax.engine.certifying import Certifying, revert_intent, take_out
from autoresearch_jax.engine.flight import Flight
from autoresearch_jax.engine.inbox import Inbox
from autoresearch_jax.engine.limits import ends_in_words, limits_left
from autoresearch_jax.engine.measuring import Measuring
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.plan import champion_trial, is_to_be_kept
from autoresearch_jax.engine.proposals import Proposals
from autoresearch_jax.engine.recorder import Entries, Recorder
from autoresearch_jax.engine.records import ExperimentRow, Kind, Purpose
from autoresearch_jax.engine.scheduler import Scheduler
from autoresearch_jax.engine.state import note_ends, read_state, settled_constants
from autoresearch_jax.engine.stopping import ProposalWaits, StoppingList
from autoresearch_jax.proposers.base import Brief, ProposalFailed, ServiceDown, SpaceExhausted
from autoresearch_jax.proposers.space import Constant

POLL_SECONDS = 0.1  # between two looks whether an agent has answered, while trials run


class Search:
    """Begins experiments and runs of the champion, and has them carried out.

    Attributes:
      reason: why nothing more was begun, one line; empty before the end.
      flight: the trials that run.
    """

    def __init__(
        self,
        parts: Parts,
        recorder: Recorder,
        stopping: StoppingList,
        inbox: Inbox,
        run_seed: int,
        asking: Asking,
        first_wait_seconds: float,
    ) -> None:
        """Takes what the loop works with; see `Loop` for the last three."""
        self._parts = parts
        self._ledger = parts.ledger
        self._recorder = recorder
        self._stopping = stopping
        self._inbox = inbox
        self._run_seed = run_seed
        self._asking = asking
        self._latest_brief: Brief | None = None
        notice, merge = parts.observer.notice, parts.workspace.merge
        self._entries = Entries(recorder, inbox, merge, parts.proposer.name, parts.observer.ends)
        self._waits = ProposalWaits(stopping, parts.observer, first_wait_seconds, inbox.num_waiting)
        self._proposals = Proposals(
            parts.proposer, parts.folder, parts.ledger.source, merge, notice, parts.precheck.close
        )
        self.flight = Flight(parts, recorder, stopping, first_wait_seconds)
        measuring = Measuring(parts, recorder, self.flight, run_seed)
        self._scheduler = Scheduler(parts, recorder, measuring, self.flight, self._look_ahead)
        self._certifying = Certifying(parts.ledger, parts.certification)
        self._ends: str | None = None  # what ends the run, as it was told last
        self.reason = ""

    def search(self) -> None:
        """Works until the stopping list or the proposer ends it, and nothing is open."""
        self._scheduler.go_on(self._begin_next, self._seconds_to_wait)

    def complete(self) -> None:
        """Carries out what is open, and begins nothing."""
        self._scheduler.go_on(lambda: False)

    def measure_text(self, number: int) -> None:
        """Works until a text of the inbox is decided on; what is open and the texts before it come first."""
        self._scheduler.go_on(lambda: not self._inbox.is_over(number) and self._begin_by_hand(time.monotonic()))

    def certify(self) -> None:
        """Takes all steps of certification that are left, those that a killed process began first."""
        self._scheduler.go_on(lambda: self._certify(at_end=True))

    def certify_anew(self) -> tuple[int, int]:
        """See `Certifying.begin_anew`."""
        return self._certifying.begin_anew()

    def close(self) -> None:
        """Ends what runs and the proposer; experiments stay open."""
        self._proposals.close()
        self.flight.abandon()

    def _begin_next(self) -> bool:
        """Begins the next experiment of the search; False if there is none now, or none any more: see `_reason`."""
        started = time.monotonic() if self._waits.since is None else self._waits.since
        champion = self._recorder.require_champion()
        space = self._refresh_space(champion)
        now = time.monotonic()
        rows = self._ledger.open_experiments()
        waited = now - (max(self._recorder.last_ended, self.flight.started) if rows else started)
        needed = self._certifying.seconds_needed(self._parts.executor.slots)
        num_open = sum(row.kind is Kind.PROPOSAL for row in rows)
        progress = self._stopping.progress(champion, waited_seconds=waited + needed, more_experiments=num_open)
        if (reason := self._stopping.stop_reason(progress)) is not None:
            self.reason = f"{reason} reached"
            return False
        return self._certify(at_end=False) or self._begin_by_hand(started) or self._propose(champion, space, started)

    def _propose(self, champion: ExperimentRow, space: Sequence[Constant], started: float) -> bool:
        """Begins what is proposed, or waits where nothing is; False if that may take long and trials run meanwhile."""
        beside_trials = not self.flight.is_empty
        if beside_trials and (self._waits.seconds_left or self._proposals.is_asking):
            return False
        brief = self._latest_brief = self._brief(champion, space)
        if beside_trials and self._proposals.look_ahead(brief):
            return False
        try:
            with self._parts.interrupts.allowed():
                proposal = self._proposals.next(brief)
        except SpaceExhausted as exhausted:
            self.reason = str(exhausted)
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

    def _seconds_to_wait(self) -> float | None:
        """Until something may be begun that cannot be now; None if only the end of a trial changes that."""
        if self._proposals.is_asking:
            return POLL_SECONDS
        return self._waits.seconds_left or None

    def _refresh_space(self, champion: ExperimentRow) -> Sequence[Constant]:
        """Reads program.md again: what may be moved, and what ends the run; tells where that has changed."""
        parts = self._parts
        source, settled = parts.ledger.source(champion.id), settled_constants(parts.ledger)
        space = parts.program.refresh(parts.task.asset, source, settled, parts.task.metric.name, parts.observer.notice)
        self.note_ends()
        return space

    def note_ends(self) -> None:
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
        if isinstance(step, MeasureChampion):
            return self._measure_champion(champion)
        rows = ledger.open_experiments()
        if (at_end and not self.flight.is_empty) or any(
            row.kind is Kind.REVERT or is_to_be_kept(ledger, row) for row in rows
        ):
            return False
        self._take_out(champion, step.edits)
        return True

    def _measure_champion(self, champion: ExperimentRow) -> bool:
        """Starts a run of the champion, to know its score better; False if enough of them run."""
        state, measured = read_state(self._ledger), self._ledger.measured(champion)
        running = self.flight.num_running(measured.id)
        if state is None or running >= self._certifying.champion_runs_left():
            return False
        if self.flight.is_empty:
            self.flight.started = time.monotonic()
        trial = champion_trial(state, Purpose.CERTIFY, self._run_seed, running=running)
        self.flight.start(champion.id, trial)
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

    def _begin_by_hand(self, started: float) -> bool:
        """Takes the next text of the inbox up; False if none waits."""
        text = self._inbox.oldest()
        if text is None:
            return False
        self._waits.interrupted()
        with self._parts.interrupts.allowed():  # an answer that is on its way is waited for
            self._proposals.put_off(self._ledger.next_number())
        experiment = self._entries.begin_text(self._recorder.require_champion(), text, started)
        if experiment.is_open:
            self._scheduler.begin(experiment, started)
        return True
