"""Whether snapshots can be moved to where --snapshot_dir says, tried with one that is made for it."""

import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from autoresearch_jax.commands.checks.check import Check, refusal, shown
from autoresearch_jax.commands.checks.disk import file_system, nearest_folder
from autoresearch_jax.snapshots.store import MANIFEST, SnapshotStore, StoreError

NAME = "snapshot_dir"
_REMEDY = "a run moves its snapshots there: docs/snapshots.md says what each kind of place needs"


def check_snapshot_dir(place: str | None) -> Check:
    """Whether a snapshot can be written there, read and removed; of a folder that is not there, in the nearest above.

    Args:
      place: value of --snapshot_dir, beside the places of all its runs; None without one.
    """
    if place is None:
        return Check(NAME, "none, snapshots stay in the run's folder")
    try:
        remote = SnapshotStore(place)
    except StoreError as error:
        return refusal(NAME, error)
    where = place
    if "://" not in remote.root:
        folder = nearest_folder(Path(remote.root))
        if not folder.is_dir():
            return Check(NAME, f"{shown(folder)}: is no folder", is_ok=False, remedy="name another --snapshot_dir")
        if folder != Path(remote.root):
            where += f", which is not there yet: tried in {shown(folder)}"
        if (kind := file_system(folder)) is not None:
            where += f", {kind}"
        remote = SnapshotStore(str(folder))
    name = f".doctor-{secrets.token_hex(8)}"
    try:
        _try(remote, name)
    except StoreError as error:
        return Check(NAME, str(error).replace(f"/{name}", ""), is_ok=False, remedy=_REMEDY)
    return Check(NAME, where)


def _try(remote: SnapshotStore, name: str) -> None:
    """Copies a snapshot there and back, and removes it.

    Raises:
      StoreError: one of these is not possible.
    """
    with tempfile.TemporaryDirectory(prefix="autoresearch-doctor-") as scratch:
        snapshot = Path(scratch) / name
        snapshot.mkdir()
        (snapshot / MANIFEST).write_text("{}\n")
        try:
            remote.put(snapshot)
            remote.fetch(name, Path(scratch) / "back")
        except BaseException:
            with suppress(StoreError):
                remote.remove(name)
            raise
        remote.remove(name)
