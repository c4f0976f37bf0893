"""From an experiment's source to its ending: prepare, look for a twin, measure until the rule has decided."""

import shutil
import statistics
import traceback
from collections.abc import Sequence
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.measurement import HASHED_BY, Candidate, CandidateRejected, Measurement, Status
from autoresearch_jax.search.book import Book, Ending, score_of
from autoresearch_jax.search.constants import same_value
from autoresearch_jax.search.decision import Choice, Decision, DecisionRule, Score
from autoresearch_jax.search.interrupts import Interrupts
from autoresearch_jax.search.program_file import ProgramFile
from autoresearch_jax.search.records import ExperimentRow, Kind, TrialRow, Verdict
from autoresearch_jax.search.run_folder import RunFolder
from autoresearch_jax.search.seeds import draw_seed
from autoresearch_jax.search.simplicity import syntax_nodes
from autoresearch_jax.search.task import Progress, Task

MAX_TASK_FAILURES = 3  # in a row; one may be an accident of the machine, three are not the candidates' doing


class RunError(UserError):
    """The run cannot go on; what was measured so far is kept."""


class Evaluation:
    """Measures experiments with one task, under one rule."""

    def __init__(
        self,
        task: Task,
        rule: DecisionRule,
        book: Book,
        folder: RunFolder,
        program: ProgramFile,
        interrupts: Interrupts,
        on_progress: Progress,
        run_seed: int,
    ) -> None:
        self._task = task
        self._rule = rule
        self._book = book
        self._folder = folder
        self._program = program
        self._interrupts = interrupts
        self._on_progress = on_progress
        self._run_seed = run_seed
        self._task_failures = 0
        self._hashes_now: dict[int, str | None] = {}  # of champions that were hashed otherwise

    def evaluate(self, experiment: ExperimentRow) -> Ending:
        """Spends what it takes to decide on an experiment; takes up one that a killed process left.

        Raises:
          RunError: the task itself failed too often; the experiment stays open.
          KeyboardInterrupt: the process was asked to end; the same.
        """
        log_dir = self._folder.log_dir(experiment.id)
        try:
            with self._interrupts.allowed():
                candidate = self._task.prepare(self._book.ledger.source(experiment.id), log_dir)
                champion_hash = self._champion_hash(candidate, log_dir / "champion")
        except CandidateRejected as rejection:
            if rejection.details:
                (log_dir / "rejected.txt").write_text(rejection.details, encoding="utf-8")
            return Ending(rejection.status, None, Verdict.DISCARD, rejection.reason)
        except Exception as error:
            return Ending(Status.CRASH, None, Verdict.DISCARD, self._task_failed(experiment, error))
        champion = self._book.champion
        if champion is not None and champion_hash == candidate.program_hash:
            assert champion.program_hash is not None
            self._book.ledger.set_program(experiment.id, champion.program_hash)  # by which its trials are found
            return self._compare_texts(experiment, champion)
        self._book.ledger.set_program(experiment.id, candidate.program_hash)
        twin = self._book.ledger.scored_twin(candidate.program_hash, before=experiment.id)
        if twin is not None:
            reason = f"the same program as experiment {twin.id}, which scored {score_of(twin):.6f}"
            return Ending(Status.DUPLICATE, twin.score, Verdict.DISCARD, reason)
        return self._measure_until_decided(experiment, candidate)

    def _champion_hash(self, candidate: Candidate, log_dir: Path) -> str | None:
        """The champion's program hash, made as the candidate's was; None without a champion that can be prepared.

        An older autoresearch and another JAX hash the same program to something else. A champion from before is
        prepared again, once a process; other twins from before are not found, and their programs are measured anew.
        """
        ledger, champion = self._book.ledger, self._book.champion
        if champion is None:
            return None
        trial = ledger.trials(ledger.measured(champion).id)[0]
        if trial.metrics.get(HASHED_BY) == candidate.facts.get(HASHED_BY):
            return champion.program_hash
        if champion.id not in self._hashes_now:
            log_dir.mkdir(exist_ok=True)
            try:
                now = self._task.prepare(ledger.source(champion.id), log_dir).program_hash
            except CandidateRejected:
                now = None
            self._task.close()  # what it made ready is not what will be measured
            self._hashes_now[champion.id] = now
        return self._hashes_now[champion.id]

    def _compare_texts(self, experiment: ExperimentRow, champion: ExperimentRow) -> Ending:
        """Keeps the shorter of two texts of one program; the trials of the champion stand for both."""
        same = f"the same program as the champion (experiment {champion.id})"

        def ending(verdict: Verdict, reason: str) -> Ending:
            return Ending(Status.DUPLICATE, champion.score, verdict, f"{same} {reason}")

        listed = {constant.name for constant in self._program.program.constants}
        nodes = syntax_nodes(self._book.ledger.source(experiment.id), listed)
        champion_nodes = syntax_nodes(self._book.ledger.source(champion.id), listed)
        if nodes is None or champion_nodes is None or nodes >= champion_nodes:
            more = "" if nodes is None or champion_nodes is None else f": {nodes} syntax nodes against {champion_nodes}"
            return ending(Verdict.DISCARD, f"in a text that is no shorter{more}")
        shorter = f"with {champion_nodes - nodes} fewer syntax nodes"
        # a number written in place of its name is one node less, and one constant less for an optimizer to move
        listed &= champion.constants.keys()
        lost = sorted(listed - experiment.constants.keys())
        page = self._program.program.path.name
        if lost:
            return ending(Verdict.DISCARD, f"{shorter}, but without {', '.join(lost)}, which {page} lists to be moved")
        # no trial ever told that the new value is as good: it only does nothing in the program of now
        moved = sorted(name for name in listed if not same_value(champion.constants[name], experiment.constants[name]))
        if moved:
            reason = (
                f"{shorter}, but with another {', '.join(moved)}, which {page} lists: a value is kept for its score"
            )
            return ending(Verdict.DISCARD, reason)
        return ending(Verdict.KEEP, f"{shorter}: a proven refactoring")

    def _measure_until_decided(self, experiment: ExperimentRow, candidate: Candidate) -> Ending:
        ledger = self._book.ledger
        champion_scores = self._book.scores(self._book.champion)
        scores = self._book.scores(experiment)
        trial = next((trial for trial in ledger.trials(experiment.id) if trial.status is None), None)
        while True:
            if trial is None:
                trial = ledger.begin_trial(experiment.id, self._seed(experiment, champion_scores, len(scores)))
            measurement = self._measure(experiment, trial, candidate)
            last = (trial, measurement)
            if measurement.value is None:
                reason = measurement.error or str(measurement.status)
                return Ending(measurement.status, None, Verdict.DISCARD, reason, last_trial=last)
            scores.append(Score(trial.seed, measurement.value))
            decision = self._decide(champion_scores, scores)
            if decision.choice is not Choice.MEASURE_AGAIN:
                verdict = Verdict.KEEP if decision.choice is Choice.KEEP else Verdict.DISCARD
                mean = statistics.fmean(score.value for score in scores)
                return Ending(Status.OK, mean, verdict, decision.reason, len(scores), last)
            ledger.finish_trial(trial.id, measurement)
            trial = None

    def _decide(self, champion: Sequence[Score], candidate: Sequence[Score]) -> Decision:
        if not champion:
            return Decision(Choice.KEEP, "the baseline")
        return self._rule.decide(champion, candidate)

    def _seed(self, experiment: ExperimentRow, champion: Sequence[Score], trial: int) -> int:
        """The seed of the champion's trial of the same number, so that the two are a pair; else a fresh one."""
        if trial < len(champion):
            return champion[trial].seed
        return draw_seed(self._run_seed, experiment.id, trial)

    def _measure(self, experiment: ExperimentRow, trial: TrialRow, candidate: Candidate) -> Measurement:
        snapshot_dir = self._folder.snapshot_dir(experiment.id, trial.id)
        snapshot_dir.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(snapshot_dir, ignore_errors=True)  # of the same trial, in a process that was killed
        try:
            with self._interrupts.allowed():
                measurement = self._task.measure(
                    candidate,
                    seed=trial.seed,
                    log_dir=self._folder.log_dir(experiment.id),
                    snapshot_dir=snapshot_dir,
                    on_progress=self._on_progress,
                )
        except Exception as error:
            return Measurement(Status.CRASH, None, trial.seed, error=self._task_failed(experiment, error))
        self._task_failures = 0
        return measurement

    def _task_failed(self, experiment: ExperimentRow, error: Exception) -> str:
        """Logs a failure that is not the candidate's and returns it in one line.

        Raises:
          RunError: it was one too many; the experiment stays open, and the same command takes it up again.
        """
        log = self._folder.log_dir(experiment.id) / "task_error.txt"
        with log.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
        line = f"the task failed: {type(error).__name__}: {' '.join(str(error).split())}"
        self._task_failures += 1
        if self._task_failures >= MAX_TASK_FAILURES or experiment.kind is Kind.BASELINE:
            raise RunError(f"{line}; see {log}; the same command goes on from here") from error
        return line
