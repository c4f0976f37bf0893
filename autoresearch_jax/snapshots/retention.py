"""Which snapshots a run keeps, and where: of champions, of the last experiments and of the best; others are deleted."""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind, SnapshotEvent, SnapshotEventRow, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.snapshots.store import MANIFEST, SnapshotStore, StoreError, split_address
from autoresearch_jax.types import Metric, Status

MANY = 6  # a start that deletes so many snapshots says so
_OF_A_TRIAL = re.compile(r"(\d{4,})-(\d{4,})")
_UNFINISHED = re.compile(r"\.\d{4,}-\d{4,}\.partial")


@dataclass(frozen=True)
class Keeping:
    """How many of the latest and of the best experiments keep their snapshots, besides champions.

    `place` is where they are moved to, see `SnapshotStore`; None for the run's folder.
    """

    last: int = 10
    best: int = 10
    place: str | None = None


class Retention:
    """Deletes snapshots that nothing needs any more. What the ledger says of their trials stays.

    A champion keeps the snapshots of the runs that its score is the mean of, not of the lucky ones it was kept for.
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
        """Takes what to look after; raises StoreError if there is no such place as that of `keeping`."""
        self._ledger = ledger
        self._folder = folder
        self._metric = metric
        self._keeping = keeping
        self._interrupts = interrupts
        self._notice = notice
        self._said: set[str] = set()
        self._store = None if keeping.place is None else SnapshotStore(keeping.place)
        self._kept: dict[int, list[TrialRow]] = {}  # trials whose snapshots are kept, by experiment that is over

    def settle(self) -> None:
        """Completes what a killed process left undone, and finds out what there is.

        Raises:
          StoreError: the place of `Keeping` cannot be written to, or has lost this run's snapshots.
        """
        latest = self._ledger.snapshot_events()
        if self._store is not None:
            self._check_place(self._store, latest.values())
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
        """Enters an experiment that is over, and deletes what need not be kept any longer."""
        self._let_go(self._enter(ended))
        self._move()

    def _check_place(self, store: SnapshotStore, latest: Collection[SnapshotEventRow]) -> None:
        """Refuses a place that is not mounted, or is the run's own folder: what is moved there would be deleted."""
        with suppress(OSError):  # one of the two is not there
            if os.path.samefile(store.root, self._folder.snapshots):
                raise StoreError(
                    f"{store.root}: is the run's own folder of snapshots: leave --snapshot_dir away, or name another"
                )
        ours = [split_address(str(row.place))[1] for row in latest if self._is_ours(row)]
        if not ours:
            store.check()
            return
        with suppress(StoreError):
            if any(store.is_whole(name) for name in ours):
                store.check()
                return
        raise StoreError(
            f"{store.root}: snapshots of this run were moved there, and none of them is there: mount it again, or name "
            "another --snapshot_dir"
        )

    def _enter(self, row: ExperimentRow, settled: Collection[int] = ()) -> list[TrialRow]:
        """Enters an experiment's snapshots among those that may be kept; returns those that nothing needs."""
        trials = self._ledger.trials(row.id)
        trials = [trial for trial in trials if trial.snapshot is not None and trial.id not in settled]
        needed = self._ledger.runs(row) if row.decision is Action.KEEP else trials
        if found := [trial for trial in trials if trial in needed]:
            self._kept[row.id] = found
        return [trial for trial in trials if trial not in needed]

    def _local(self) -> Iterator[tuple[Path, TrialRow]]:
        """Snapshots in the run's folder, with their trials."""
        trials = {trial.id: trial for trial in self._ledger.trials()}
        for path in sorted(self._folder.snapshots.glob("*")):
            found = _OF_A_TRIAL.fullmatch(path.name)
            trial = None if found is None else trials.get(int(found[2]))
            if trial is not None and path == self._folder.snapshot_dir(trial.experiment, trial.id):
                yield path, trial

    def _is_leftover(self, row: SnapshotEventRow) -> bool:
        """Whether a snapshot that is still here was about to be deleted; False if it may be the only copy."""
        if row.event is SnapshotEvent.EXPIRED:
            return True
        if self._store is None or not self._is_ours(row):
            return False
        return self._store.is_whole(split_address(str(row.place))[1])

    def _let_go(self, trials: list[TrialRow], told_from: int | None = None) -> None:
        """Deletes some snapshots, and those that are not wanted any more; never those at a place of another run.

        In the run's folder a snapshot expires before it is deleted, so that no half of one is taken for whole. At
        another place it expires afterwards: what could not be deleted is tried again with the next.
        """
        wanted = self._wanted(self._kept)
        unwanted = [number for number in self._kept if number not in wanted]
        trials = [*trials, *(trial for number in unwanted for trial in self._kept.pop(number))]
        if not trials:
            return
        latest = self._ledger.snapshot_events()
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
        self._ledger.expire_snapshots([trial.id for trial in expiring])
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
        if self._store is None:
            return
        latest = self._ledger.snapshot_events()
        for path, trial in self._local():
            if trial.id in latest or not (path / MANIFEST).exists():
                continue
            if trial.status is None or self._ledger.experiment(trial.experiment).is_open:
                continue
            try:
                with self._interrupts.allowed():  # what is left of a copy is completed by the next
                    address = self._store.put(path)
            except StoreError as error:
                self._say_once(f"{error}; snapshots stay in {self._folder.snapshots} until one can be moved")
                return
            self._ledger.move_snapshot(trial.id, address)
            self._delete(path)

    def _is_ours(self, row: SnapshotEventRow) -> bool:
        """Whether a snapshot was moved to the place of `Keeping`."""
        if self._store is None or row.event is not SnapshotEvent.MOVED:
            return False
        return split_address(str(row.place))[0] == self._store.root

    def _is_removed(self, address: str) -> bool:
        """Removes a snapshot at another place; False if that is not possible now."""
        assert self._store is not None
        try:
            with self._interrupts.allowed():
                self._store.remove(split_address(address)[1])
        except StoreError as error:
            self._say_once(str(error))
            return False
        return True

    def _say_once(self, text: str) -> None:
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
