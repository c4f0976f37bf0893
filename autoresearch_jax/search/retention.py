"""Which snapshots a run keeps: of champions, of the last experiments and of the best; the others are deleted."""

import re
import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.measurement import Metric, Status
from autoresearch_jax.runtime.faults import FaultPoint, reach
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.records import ExperimentRow, Kind, TrialRow, Verdict
from autoresearch_jax.search.run_folder import RunFolder
from autoresearch_jax.search.snapshot_log import SnapshotEvent

_OF_A_TRIAL = re.compile(r"\d{4,}-(\d{4,})")
_UNFINISHED = re.compile(r"\.\d{4,}-\d{4,}\.partial")


@dataclass(frozen=True)
class Keeping:
    """Whose snapshots are kept beside those of all champions.

    Attributes:
      last: of so many experiments, the latest that have any.
      best: of so many, those with the best scores.
    """

    last: int = 10
    best: int = 10


class Retention:
    """Lets go of snapshots once nothing needs them. What the ledger says of their trials stays.

    Of a champion those are kept that its score is the mean of, and not the lucky ones that it was kept for.

    That a snapshot expires is in the ledger before it is deleted, so that a kill between the two leaves no doubt.
    """

    def __init__(
        self, ledger: Ledger, folder: RunFolder, metric: Metric, keeping: Keeping, notice: Callable[[str], None]
    ) -> None:
        """Stores what to look after.

        Args:
          ledger: of the run.
          folder: the run's.
          metric: says which scores are the best.
          keeping: what to keep.
          notice: told what cannot be deleted.
        """
        self._ledger = ledger
        self._folder = folder
        self._metric = metric
        self._keeping = keeping
        self._notice = notice
        self._kept: dict[int, list[TrialRow]] = {}  # trials whose snapshots are there, by experiment that is over

    def settle(self) -> None:
        """Completes what a killed process left undone, and finds out what there is."""
        latest = self._ledger.snapshots.latest()
        gone = {trial for trial, row in latest.items() if row.event is not SnapshotEvent.RETRAINED}
        for path in self._folder.snapshots.glob("*"):
            of_trial = _OF_A_TRIAL.fullmatch(path.name)
            if _UNFINISHED.fullmatch(path.name) or (of_trial is not None and int(of_trial[1]) in gone):
                self._delete(path)
        # what was trained again was asked for, and stays until its folder is deleted by hand
        settled = {trial for trial, row in latest.items() if row.event is not SnapshotEvent.MOVED}
        rows = [row for row in self._ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open]
        self._let_go([trial for row in rows for trial in self._enter(row, settled)])

    def apply(self, ended: ExperimentRow) -> None:
        """Enters an experiment that is over, and lets go of whatever need not be kept any longer."""
        self._let_go(self._enter(ended))

    def _enter(self, row: ExperimentRow, settled: Collection[int] = ()) -> list[TrialRow]:
        """Enters an experiment's snapshots among those that may be kept; returns those that nothing needs.

        Args:
          row: the experiment, which is over.
          settled: trials whose snapshots are none of our business any more.
        """
        trials = self._ledger.trials(row.id)
        trials = [trial for trial in trials if trial.snapshot is not None and trial.id not in settled]
        needed = self._ledger.scored(row) if row.decision is Verdict.KEEP else trials
        if found := [trial for trial in trials if trial in needed]:
            self._kept[row.id] = found
        return [trial for trial in trials if trial not in needed]

    def _let_go(self, trials: list[TrialRow]) -> None:
        """Deletes some snapshots, and those that are not wanted any more."""
        wanted = self._wanted(self._kept)
        unwanted = [number for number in self._kept if number not in wanted]
        trials += [trial for number in unwanted for trial in self._kept.pop(number)]
        if not trials:
            return
        self._ledger.snapshots.expire([trial.id for trial in trials])
        reach(FaultPoint.AFTER_EXPIRY)
        for trial in trials:
            self._delete(self._folder.snapshot_dir(trial.experiment, trial.id))
            reach(FaultPoint.AFTER_DELETION)

    def _wanted(self, experiments: Collection[int]) -> set[int]:
        """Those of some experiments whose snapshots are kept."""
        rows = [self._ledger.experiment(number) for number in sorted(experiments)]
        wanted = {row.id for row in rows if row.decision is Verdict.KEEP}
        others = [row for row in rows if row.id not in wanted]
        wanted |= {row.id for row in others[max(0, len(others) - self._keeping.last) :]}
        scored = [(row.score, row.id) for row in others if row.status is Status.OK and row.score is not None]
        scored.sort(reverse=self._metric.direction == "maximize")
        return wanted | {number for _, number in scored[: self._keeping.best]}

    def _delete(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            try:
                shutil.rmtree(path)
            except OSError as error:
                self._notice(
                    f"{error.filename or path}: cannot be deleted: {error.strerror}; the next start tries again"
                )
