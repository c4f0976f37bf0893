"""Where the snapshot of a trial is now: in the run's folder, at another place, let go of, or missing."""

import enum
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.engine.integrity import RESTORE
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import SnapshotEvent, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.errors import UserError
from autoresearch_jax.snapshots.store import SnapshotStore, split_address

DEFAULT_RUN_DIR = Path("runs")


class SnapshotGoneError(UserError):
    """A snapshot is not there any more; the message says why, and how to get one back."""


class Whereabouts(enum.StrEnum):
    """Where a snapshot is; of the last two there is none."""

    HERE = "here"  # on this machine
    MOVED = "moved"  # at another place
    EXPIRED = "expired"  # the run let go of it
    MISSING = "missing"  # nobody knows why


@dataclass(frozen=True)
class KeptSnapshot:
    """A trial's snapshot as it stands, and how to get one if it is not there, or is damaged.

    `place` is its folder or address; of one that is not there, the folder that it belongs into.
    """

    trial: TrialRow
    whereabouts: Whereabouts
    place: str
    remedy: str

    @property
    def name(self) -> str:
        """Of its folder, wherever that is."""
        return self.place.rpartition("/")[2]

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder that holds it inside; one that was fetched from elsewhere is removed afterwards.

        A UserError that is raised inside names the address in place of that folder.

        Raises:
          SnapshotGoneError: there is none.
          StoreError: its place cannot be reached.
        """
        if self.whereabouts is Whereabouts.HERE:
            yield Path(self.place)
            return
        if self.whereabouts is not Whereabouts.MOVED:
            has_expired = self.whereabouts is Whereabouts.EXPIRED
            why = "has expired: the run let go of it: " if has_expired else f"is missing: {RESTORE}, or "
            raise SnapshotGoneError(f"{self.place}: {why}{self.remedy}")
        store = SnapshotStore(split_address(self.place)[0])
        if not store.is_whole(self.name):
            raise SnapshotGoneError(f"{self.place}: is missing: {RESTORE}, or {self.remedy}")
        with tempfile.TemporaryDirectory(prefix="autoresearch-snapshot-") as scratch:
            folder = Path(scratch) / self.name
            store.fetch(self.name, folder)
            try:
                yield folder
            except UserError as error:
                raise type(error)(self.shown(str(error), folder)) from error

    def shown(self, text: str, folder: Path) -> str:
        """A text that names files of `folder`, which came from `self.folder`, with the place that they are from."""
        return text.replace(str(folder), self.place)


def find_snapshot(ledger: Ledger, folder: RunFolder, trial: TrialRow, *, as_recorded: bool = False) -> KeptSnapshot:
    """Finds out where the snapshot of a trial is.

    `as_recorded` takes one that the folder lacks from where it was when the trial ended: of a folder that was copied,
    that is another copy.
    """
    assert trial.snapshot is not None, f"trial {trial.id} has no snapshot"
    own = folder.own_snapshot(trial.snapshot)
    latest = ledger.snapshot_events().get(trial.id)
    place = str(own)
    match None if latest is None else latest.event:
        case SnapshotEvent.MOVED if not own.is_dir():  # else it was brought home, since it is deleted in one step
            assert latest is not None
            whereabouts, place = Whereabouts.MOVED, str(latest.place)
        case SnapshotEvent.EXPIRED:
            whereabouts = Whereabouts.EXPIRED
        case _ if own.is_dir():
            whereabouts = Whereabouts.HERE
        case None if as_recorded and trial.snapshot.is_dir():
            whereabouts, place = Whereabouts.HERE, str(trial.snapshot)
        case _:
            whereabouts = Whereabouts.MISSING
    return KeptSnapshot(trial, whereabouts, place, repeat_command(folder, trial.experiment))


def repeat_command(folder: RunFolder, experiment: int) -> str:
    """What to do to have a snapshot like those of an experiment."""
    run = folder.path.name if folder.path.parent == DEFAULT_RUN_DIR else str(folder.path)
    command = shlex.join(["autoresearch", "trial", f"--from={run}:{experiment}"])
    return f"train another like it: `{command}`"
