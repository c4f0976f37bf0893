"""Which snapshots a run keeps, and where: of champions, of the last experiments and of the best; others are deleted."""

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import RUN_ID
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.snapshots.log import SnapshotEvent, SnapshotEventRow
from autoresearch_jax.snapshots.remote import MANIFEST, RemoteSnapshots, split_address
from autoresearch_jax.snapshots.stores import StoreError
from autoresearch_jax.types import Metric, Status

RETRY_SECONDS = 600.0  # to the next try of a place that failed: a bucket that is down can take half a minute to say so
MANY = 6  # snapshots that a start deletes, as of a run from before they were: it says so
_OF_A_TRIAL = re.compile(r"(\d{4,})-(\d{4,})")
_UNFINISHED = re.compile(r"\.\d{4,}-\d{4,}\.partial")


@dataclass(frozen=True)
class Keeping:
    """Whose snapshots are kept beside those of all champions, and where.

    Attributes:
      last: of so many experiments, the latest that have any.
      best: of so many, those with the best scores.
      place: where they are moved to, see `RemoteSnapshots`; None for the run's folder.
    """

    last: int = 10
    best: int = 10
    place: str | None = None


class Retention:
    """Lets go of snapshots once nothing needs them. What the ledger says of their trials stays.

    Of a champion those are kept that its score is the mean of, and not the lucky ones that it was kept for. What was
    trained again was asked for: it stays in the run's folder until somebody deletes it.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: RunFolder,
        metric: Metric,
        keeping: Keeping,
        interrupts: Interrupts,
        notice: Callable[[str], None],
    ) -> None:
        """Stores what to look after.

        Args:
          ledger: of the run.
          folder: the run's.
          metric: says which scores are the best.
          keeping: what to keep.
          interrupts: which cut a copy to another place short.
          notice: told what cannot be moved or deleted for now.

        Raises:
          StoreError: the place of `keeping` is of no kind that is known.
        """
        self._ledger = ledger
        self._folder = folder
        self._metric = metric
        self._keeping = keeping
        self._interrupts = interrupts
        self._notice = notice
        self._said: set[str] = set()
        self._places_fail_until = 0.0  # of `time.monotonic()`
        self._remote = None if keeping.place is None else RemoteSnapshots(keeping.place)
        self._kept: dict[int, list[TrialRow]] = {}  # trials whose snapshots are kept, by experiment that is over

    def settle(self) -> None:
        """Completes what a killed process left undone, and finds out what there is.

        Raises:
          StoreError: the place of `Keeping` is not this run's, or cannot be written to.
        """
        latest = self._ledger.snapshots.latest()
        if self._remote is not None:
            self._require_elsewhere(self._remote)
            moved = [str(row.place) for row in latest.values() if row.event is SnapshotEvent.MOVED]
            owner = str(self._ledger.settings()[RUN_ID])
            self._remote.claim(owner, any(split_address(address)[0] == self._remote.root for address in moved))
        for path in self._folder.snapshots.glob(".*.partial"):
            if _UNFINISHED.fullmatch(path.name):
                self._delete(path)
        for path, trial in self._local():
            if trial.id in latest and self._is_leftover(latest[trial.id]):
                self._delete(path)
        settled = {trial for trial, row in latest.items() if row.event is not SnapshotEvent.MOVED}
        rows = [row for row in self._ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open]
        self._let_go([trial for row in rows for trial in self._enter(row, settled)], told_from=MANY)
        self._move()

    def apply(self, ended: ExperimentRow) -> None:
        """Enters an experiment that is over, and lets go of whatever need not be kept any longer."""
        self._let_go(self._enter(ended))
        self._move()

    def _enter(self, row: ExperimentRow, settled: Collection[int] = ()) -> list[TrialRow]:
        """Enters an experiment's snapshots among those that may be kept; returns those that nothing needs.

        Args:
          row: the experiment, which is over.
          settled: trials whose snapshots are none of our business any more.
        """
        trials = self._ledger.trials(row.id)
        trials = [trial for trial in trials if trial.snapshot is not None and trial.id not in settled]
        needed = self._ledger.runs(row) if row.decision is Action.KEEP else trials
        if found := [trial for trial in trials if trial in needed]:
            self._kept[row.id] = found
        return [trial for trial in trials if trial not in needed]

    def _require_elsewhere(self, remote: RemoteSnapshots) -> None:
        """Refuses the run's own folder of snapshots, by whatever name: what is moved there would be deleted there."""
        with suppress(OSError):  # one of the two is not there
            if os.path.samefile(remote.root, self._folder.snapshots):
                raise StoreError(
                    f"{remote.root}: is the run's own folder of snapshots: leave --snapshot_dir away, or name another"
                )

    def _local(self) -> Iterator[tuple[Path, TrialRow]]:
        """What lies in the run's folder, and whose it is."""
        trials = {trial.id: trial for trial in self._ledger.trials()}
        for path in sorted(self._folder.snapshots.glob("*")):
            found = _OF_A_TRIAL.fullmatch(path.name)
            trial = None if found is None else trials.get(int(found[2]))
            if trial is not None and path == self._folder.snapshot_dir(trial.experiment, trial.id):
                yield path, trial

    def _is_leftover(self, row: SnapshotEventRow) -> bool:
        """Whether a snapshot that is still here was about to be deleted; not if it may be the only one there is."""
        if row.event is SnapshotEvent.EXPIRED:
            return True
        if not self._is_ours(row):
            return False
        assert self._remote is not None
        return self._remote.is_whole(split_address(str(row.place))[1])

    def _let_go(self, trials: list[TrialRow], told_from: int | None = None) -> None:
        """Deletes some snapshots, and those that are not wanted any more.

        What is at a place of before, or of the run that this one is a copy of, stays there.
        In the run's folder, what is deleted has expired before: so no half of one is taken for whole. At another place,
        it expires afterwards: what could not be deleted is tried again with the next, or at the next start.
        """
        wanted = self._wanted(self._kept)
        unwanted = [number for number in self._kept if number not in wanted]
        trials = [*trials, *(trial for number in unwanted for trial in self._kept.pop(number))]
        if not trials:
            return
        latest = self._ledger.snapshots.latest()
        expiring = []
        for trial in trials:
            row = latest.get(trial.id)
            if row is None:
                expiring.append(trial)
            elif self._is_ours(row):
                if self._is_removed(str(row.place)):
                    expiring.append(trial)
                else:
                    self._kept.setdefault(trial.experiment, []).append(trial)
        if told_from is not None and len(expiring) >= told_from:
            self._notice(
                f"{len(expiring)} snapshots are deleted: --keep_last={self._keeping.last} and "
                f"--keep_best={self._keeping.best} keep no more than that beside those of champions"
            )
        self._ledger.snapshots.expire([trial.id for trial in expiring])
        for trial in expiring:
            self._delete(self._folder.snapshot_dir(trial.experiment, trial.id))

    def _wanted(self, experiments: Collection[int]) -> set[int]:
        """Those of some experiments whose snapshots are kept."""
        rows = [self._ledger.experiment(number) for number in sorted(experiments)]
        wanted = {row.id for row in rows if row.decision is Action.KEEP}
        others = [row for row in rows if row.id not in wanted]
        wanted |= {row.id for row in others[max(0, len(others) - self._keeping.last) :]}
        scored = [(row.score, row.id) for row in others if row.status is Status.OK and row.score is not None]
        scored.sort(reverse=self._metric.direction == "maximize")
        return wanted | {number for _, number in scored[: self._keeping.best]}

    def _move(self) -> None:
        """Moves what is in the run's folder, and not needed there, to the place where snapshots are kept."""
        if self._remote is None or time.monotonic() < self._places_fail_until:
            return
        latest = self._ledger.snapshots.latest()
        for path, trial in self._local():
            if trial.id in latest or not (path / MANIFEST).exists():
                continue
            if trial.status is None or self._ledger.experiment(trial.experiment).is_open:
                continue
            try:
                with self._interrupts.allowed():  # what is left of a copy is completed by the next
                    address = self._remote.put(path)
            except StoreError as error:
                self._enter_failure(f"{error}; snapshots stay in {self._folder.snapshots} until one can be moved")
                return
            self._ledger.snapshots.move(trial.id, address)
            self._delete(path)

    def _is_ours(self, row: SnapshotEventRow) -> bool:
        """Whether a snapshot was moved to the place that is this run's alone."""
        if self._remote is None or row.event is not SnapshotEvent.MOVED:
            return False
        return split_address(str(row.place))[0] == self._remote.root

    def _is_removed(self, address: str) -> bool:
        """Removes a snapshot at another place; False if that is not possible now."""
        assert self._remote is not None
        if time.monotonic() < self._places_fail_until:
            return False
        try:
            with self._interrupts.allowed():
                self._remote.remove(split_address(address)[1])
        except StoreError as error:
            self._enter_failure(str(error))
            return False
        return True

    def _enter_failure(self, text: str) -> None:
        """Leaves a place alone for a while; what keeps failing for the same reason is told once."""
        self._places_fail_until = time.monotonic() + RETRY_SECONDS
        if text not in self._said:
            self._said.add(text)
            self._notice(text)

    def _delete(self, path: Path) -> None:
        doomed = path if path.name.endswith(".partial") else path.with_name(f".{path.name}.partial")
        try:
            if doomed is not path:  # a half of it must not be taken for it
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError:  # deleted by hand, or moved before
            return
        except OSError as error:
            self._notice(f"{error.filename or path}: cannot be deleted: {error.strerror}; the next start tries again")
