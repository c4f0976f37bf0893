"""The loop: propose, measure, decide, keep or discard, repeat; every step written down before it is spent on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoresearch_jax.errors import UserError
from autoresearch_jax.measurement import Scalar, Status
from autoresearch_jax.proposers.base import NO_PROPOSAL, Brief, Proposal, ProposalFailed, Proposer, SpaceExhausted
from autoresearch_jax.proposers.space import Constant
from autoresearch_jax.search.book import Book, Ending, as_shown, score_of
from autoresearch_jax.search.briefs import champion_facts, limits_left, loss_curves, noise_floor
from autoresearch_jax.search.constants import ConstantError, ConstantValue, read_constants, set_constants
from autoresearch_jax.search.decision import DecisionRule
from autoresearch_jax.search.evaluation import Evaluation
from autoresearch_jax.search.interrupts import Interrupts
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.measuring import Measuring
from autoresearch_jax.search.observer import Observer
from autoresearch_jax.search.program_file import ProgramFile
from autoresearch_jax.search.records import ExperimentRow, Intent, Kind, Verdict
from autoresearch_jax.search.run_folder import RunFolder, check_settings, task_settings
from autoresearch_jax.search.standing import read_standing
from autoresearch_jax.search.stopping import Limit, Progress, Stop, experiments_limit
from autoresearch_jax.search.task import Task
from autoresearch_jax.search.task_failures import RunError
from autoresearch_jax.search.workspace import Workspace
from autoresearch_jax.untrusted import clean_line

INTERRUPTED = "interrupted; the same command goes on from here"
MAX_FAILED_PROPOSALS = 5  # in a row; an agent may stumble, but one that never comes up with anything is broken


@dataclass(frozen=True)
class Parts:
    """What a loop is made of."""

    task: Task
    proposer: Proposer
    rule: DecisionRule
    ledger: Ledger
    workspace: Workspace
    folder: RunFolder
    program: ProgramFile
    observer: Observer
    interrupts: Interrupts


class Loop:
    """One run, from its baseline to its stopping list, in as many processes as it takes.

    All state is in the ledger. An experiment that was begun and not ended is taken up again with the source
    and the seed that were written down for it.
    """

    def __init__(self, parts: Parts, run_seed: int, max_experiments: int | None = None) -> None:
        """Makes a loop.

        Args:
          parts: what it is made of.
          run_seed: with the number of an experiment, the source of every seed.
          max_experiments: proposals to end after, instead of what program.md says of experiments.
        """
        self._parts = parts
        self._run_seed = run_seed
        self._max_experiments = max_experiments
        self._failed_proposals = 0  # in a row, of this process: whoever starts another may have mended what failed
        self._book = Book(parts.ledger, parts.workspace, parts.folder, parts.task.metric)
        measuring = Measuring(
            parts.task,
            parts.rule,
            self._book,
            parts.folder,
            parts.program,
            parts.interrupts,
            parts.observer,
            run_seed,
        )
        self._evaluation = Evaluation(parts.task, self._book, parts.folder, parts.program, parts.interrupts, measuring)

    def run(self) -> str:
        """Works until the run ends; returns one line that says why.

        Raises:
          RunError: the baseline cannot be measured, or the task fails again and again.
          UserError: the run was started with other settings, or git refuses.
        """
        self._check_settings()
        self._book.settle()
        ledger = self._parts.ledger
        session = ledger.begin_session()
        try:
            reason = self._work()
        except UserError as error:
            ledger.end_session(session, clean_line(str(error)))
            raise
        ledger.end_session(session, reason)
        return reason

    def _work(self) -> str:
        try:
            if self._book.champion is None:
                self._run_baseline()
            while (reason := self._advance()) is None:
                pass
        except KeyboardInterrupt:
            return INTERRUPTED
        return reason

    def _check_settings(self) -> None:
        """Stores what the run's scores depend on; refuses to mix them with scores of other settings."""
        settings: dict[str, Scalar] = {
            "editable": self._parts.workspace.editable,
            "seed": self._run_seed,
            **task_settings(self._parts.task),
            **self._parts.rule.settings,
        }
        stored = self._parts.ledger.settings()
        if stored:  # a run of before there was a choice decided greedily
            check_settings({"decision": "greedy", **stored}, settings, self._parts.folder.path)
        else:
            self._parts.ledger.save_settings(settings)
        self._keep_exam()
        self._parts.folder.write_settings(self._parts.ledger.settings())

    def _keep_exam(self) -> None:
        """Has the task put down what a score can be computed again from, once for the run."""
        folder = self._parts.folder
        stored = self._parts.ledger.settings().get("exam")
        exam = self._parts.task.keep_exam(folder.exam)
        if stored not in (None, exam):
            raise RunError(f"{folder.exam} is not the exam that the run began with: restore it, or use another --tag")
        if stored is None:
            self._parts.ledger.save_settings({"exam": exam})

    def _run_baseline(self) -> None:
        """Measures what the user committed; the run stands on it."""
        experiment = self._parts.ledger.open_experiment()
        if experiment is None:
            baseline = self._parts.workspace.baseline()
            experiment = self._parts.ledger.begin_experiment(
                Intent(
                    kind=Kind.BASELINE,
                    source=baseline.source,
                    constants=_constants(baseline.source),
                    hypothesis="baseline",
                    parent_commit=baseline.commit,
                )
            )
        ended = self._carry_out(experiment, time.monotonic())
        if ended.decision is not Verdict.KEEP:
            raise RunError(
                f"the baseline, {self._parts.workspace.editable} as committed, cannot be measured "
                f"({ended.status}): {ended.reason}"
            )

    def _advance(self) -> str | None:
        """Carries out one experiment; returns why the run is over, or None."""
        started = time.monotonic()
        experiment = self._parts.ledger.open_experiment()
        if experiment is None:
            champion = self._book.require_champion()
            space = self._parts.program.refresh(
                champion.constants, self._parts.task.metric.name, self._parts.observer.notice
            )
            reason = self._stop_reason(champion)
            if reason is not None:
                return f"{reason} reached"
            brief = self._brief(champion, space)
            try:
                with self._parts.interrupts.allowed():
                    proposal = self._parts.proposer.propose(brief)
            except SpaceExhausted as exhausted:
                return str(exhausted)
            except ProposalFailed as failure:
                return self._enter_failure(champion, brief, failure, started)
            self._failed_proposals = 0
            experiment = self._begin(champion, brief, proposal, started)
        if experiment.is_open:
            self._carry_out(experiment, started)
        return None

    def _progress(self, champion: ExperimentRow) -> Progress:
        proposals = [row for row in self._book.rows if row.kind is Kind.PROPOSAL]
        last_improvement = self._book.last_improvement
        return Progress(
            experiments=len(proposals),
            seconds=sum(row.seconds or 0.0 for row in self._book.rows),
            dollars=sum(row.cost_dollars for row in proposals),
            since_keep=sum(row.id > last_improvement for row in proposals),
            metric=self._parts.task.metric.name,
            score=score_of(champion),
        )

    def _stops(self) -> list[Stop]:
        stops = list(self._parts.program.program.stops)
        if self._max_experiments is not None:
            stops = [stop for stop in stops if not (isinstance(stop, Limit) and stop.quantity == "experiments")]
            stops.append(experiments_limit(self._max_experiments))
        return stops

    def _stop_reason(self, champion: ExperimentRow) -> str | None:
        progress = self._progress(champion)
        return next((reason for stop in self._stops() if (reason := stop.reached(progress)) is not None), None)

    def _brief(self, champion: ExperimentRow, space: Sequence[Constant]) -> Brief:
        standing = read_standing(self._parts.ledger)
        sigma = None if standing is None or standing.noise is None else standing.noise.sigma
        measured = self._parts.ledger.measured(champion)
        return Brief(
            experiment=self._book.rows[-1].id + 1,
            run_seed=self._run_seed,
            metric=self._parts.task.metric,
            program=self._parts.program.program.text,
            space=space,
            champion_source=self._parts.ledger.source(champion.id),
            champion_constants=champion.constants,
            champion_score=as_shown(score_of(champion), sigma),
            history=self._book.history(sigma),
            noise_floor=noise_floor(standing),
            limits_left=limits_left(self._stops(), self._progress(champion)),
            facts=champion_facts(standing, self._parts.task.budget),
            curves=loss_curves(self._parts.folder, self._book.rows, measured.id),
        )

    def _begin(self, champion: ExperimentRow, brief: Brief, proposal: Proposal, started: float) -> ExperimentRow:
        """Writes a proposal down; one that cannot be applied is over at once."""
        source = proposal.source
        if source is None:
            try:
                source = set_constants(brief.champion_source, proposal.constants)
            except ConstantError as error:
                intent = self._intent(champion, brief.champion_source, proposal.hypothesis, proposal.category)
                return self._reject(replace(intent, cost_dollars=proposal.cost_dollars), str(error), started)
        intent = self._intent(champion, source, proposal.hypothesis, proposal.category)
        return self._parts.ledger.begin_experiment(
            replace(intent, constants=_constants(source), cost_dollars=proposal.cost_dollars)
        )

    def _enter_failure(
        self, champion: ExperimentRow, brief: Brief, failure: ProposalFailed, started: float
    ) -> str | None:
        """Writes down that there was no proposal; returns why the run is over if that is so again and again."""
        self._failed_proposals += 1
        intent = self._intent(champion, brief.champion_source, NO_PROPOSAL, NO_PROPOSAL)
        self._reject(replace(intent, cost_dollars=failure.cost_dollars), str(failure), started)
        if self._failed_proposals < MAX_FAILED_PROPOSALS:
            return None
        reason = clean_line(str(failure))
        return f"{self._failed_proposals} proposals in a row came to nothing, the last one because: {reason}"

    def _intent(self, champion: ExperimentRow, source: str, hypothesis: str, category: str) -> Intent:
        """An experiment without constants: of a text that is the champion's none are tried."""
        return Intent(
            kind=Kind.PROPOSAL,
            source=source,
            hypothesis=clean_line(hypothesis),
            category=category,
            proposer=self._parts.proposer.name,
            parent=champion.id,
            parent_commit=champion.commit,
        )

    def _reject(self, intent: Intent, reason: str, started: float) -> ExperimentRow:
        """Enters an experiment that is over before it began."""
        with self._parts.ledger.transaction():
            experiment = self._parts.ledger.begin_experiment(intent)
            ending = Ending(Status.REJECTED, None, Verdict.DISCARD, reason)
            experiment = self._book.conclude(experiment, ending, started)
        self._parts.observer.ends(experiment)
        return experiment

    def _carry_out(self, experiment: ExperimentRow, started: float) -> ExperimentRow:
        """Measures an experiment and enters what came of it in the books."""
        self._parts.observer.begins(experiment)
        ending = self._evaluation.evaluate(experiment)
        row = self._book.conclude(experiment, ending, started)
        self._parts.observer.ends(row)
        return row


def _constants(source: str) -> dict[str, ConstantValue]:
    """Top-level constants of a source; none of one that is not Python, which the task will reject."""
    try:
        return read_constants(source)
    except SyntaxError:
        return {}
