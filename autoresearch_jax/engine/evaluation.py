"""From an experiment's source to its ending: prepare, look for a twin, measure until the rule has decided."""

from pathlib import Path

from autoresearch_jax.engine.book import Book, Ending
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.examiner import Examiner
from autoresearch_jax.engine.interrupts import Interrupts
from autoresearch_jax.engine.measuring import Measuring
from autoresearch_jax.engine.program_file import ProgramFile
from autoresearch_jax.engine.records import ExperimentRow, Kind, Verdict
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.task import Task
from autoresearch_jax.engine.texts import compare_texts
from autoresearch_jax.sandbox.faults import FaultPoint, reach
from autoresearch_jax.types import HASHED_BY, Candidate, CandidateRejected, Status


class Evaluation:
    """Carries experiments of one task from their source to their ending."""

    def __init__(
        self,
        task: Task,
        book: Book,
        folder: RunFolder,
        program: ProgramFile,
        interrupts: Interrupts,
        measuring: Measuring,
        examiner: Examiner,
        disk: DiskGuard,
    ) -> None:
        self._task = task
        self._book = book
        self._folder = folder
        self._program = program
        self._interrupts = interrupts
        self._measuring = measuring
        self._examiner = examiner
        self._disk = disk
        self._hashes_now: dict[int, str | None] = {}  # of champions that were hashed otherwise

    def evaluate(self, experiment: ExperimentRow) -> Ending:
        """Spends what it takes to decide on an experiment; takes up one that a killed process left.

        Raises:
          RunError: the task itself failed too often, or the disk has no room; the experiment stays open.
          KeyboardInterrupt: the process was asked to end; the same.
        """
        self._disk.require_room()
        log_dir = self._folder.log_dir(experiment.id)
        try:
            with self._interrupts.allowed():
                candidate = self._examiner.prepare(self._book.ledger.source(experiment.id), experiment.id)
                champion_hash = self._champion_hash(candidate, log_dir / "champion")
        except CandidateRejected as rejection:
            self._disk.require_room()  # of a full disk no candidate is to blame
            if rejection.details:
                (log_dir / "rejected.txt").write_text(rejection.details, encoding="utf-8")
            return Ending(rejection.status, None, Verdict.DISCARD, rejection.reason)
        except Exception as error:
            return Ending(Status.CRASH, None, Verdict.DISCARD, self._measuring.task_failed(experiment, error))
        reach(FaultPoint.AFTER_TRACE, experiment.id)
        champion = self._book.champion
        if champion is not None and champion_hash == candidate.program_hash:
            assert champion.program_hash is not None
            self._book.ledger.set_program(experiment.id, champion.program_hash)  # by which its trials are found
            return compare_texts(self._book.ledger, experiment, champion, self._program.program)
        self._book.ledger.set_program(experiment.id, candidate.program_hash)
        reach(FaultPoint.AFTER_PROGRAM, experiment.id)
        if experiment.kind is Kind.REVERT:  # an earlier champion's program may be measured once more
            return self._measuring.until_decided(experiment, candidate)
        twin = self._book.ledger.scored_twin(candidate.program_hash, before=experiment.id)
        if twin is not None:
            reason = f"the same program as experiment {twin.id}"
            return Ending(Status.DUPLICATE, twin.score, Verdict.DISCARD, reason)
        pruned = self._book.ledger.pruned_twin(candidate.program_hash, before=experiment.id)
        if pruned is not None:
            reason = f"the same program as experiment {pruned.id}, which was stopped early"
            return Ending(Status.DUPLICATE, None, Verdict.DISCARD, reason)
        return self._measuring.until_decided(experiment, candidate)

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
