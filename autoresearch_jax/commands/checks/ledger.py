"""Whether a run that is there would go on with these flags: its ledger, tried in a copy, and its settings."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from autoresearch_jax.commands.checks.check import Check, reason, refusal, shown
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError, check_settings
from autoresearch_jax.errors import UserError
from autoresearch_jax.types import Scalar

_SHARED_MEMORY = "-shm"  # ends the name of a file that SQLite makes anew


def check_ledger(folder: RunFolder, wanted: Callable[[], Mapping[str, Scalar]]) -> Iterator[Check]:
    """Whether the ledger can be opened, and whether the run keeps to its settings with these flags.

    Nothing is written to the run's folder: even a reader of SQLite's leaves files beside what it reads.

    Args:
      folder: of the run, which may not be there yet.
      wanted: gives the settings that the flags make; see `run_settings`.
    """
    try:
        folder.require_ledger()
        holder = folder.holder()
    except RunFolderError as error:
        yield refusal("ledger", error)
        return
    if holder is not None:
        remedy = "wait for it, stop it, or choose another --tag"
        yield Check("ledger", f"{holder} is at work on it", is_ok=False, remedy=remedy)
        return
    if shut := [path for path in (folder.path, *_files(folder)) if path.exists() and not os.access(path, os.W_OK)]:
        remedy = "a run writes there: let yourself do so, with chown, chmod or mount, or choose another --tag"
        yield Check("ledger", f"{', '.join(map(shown, shut))}: cannot be written to", is_ok=False, remedy=remedy)
        return
    if not folder.ledger.exists():
        yield Check("ledger", "none yet, the run begins")
        return
    try:
        stored = _try_copy(folder)
    except OSError as error:
        yield Check("ledger", f"not looked at: {reason(error)}", remedy=f"a copy of it goes to {tempfile.gettempdir()}")
        return
    except LedgerError as error:
        yield refusal("ledger", error)
        return
    yield Check("ledger", f"{shown(folder.ledger)}, the run goes on")
    yield _settings(folder, stored, wanted)


def _files(folder: RunFolder) -> list[Path]:
    """The ledger, and what lies beside it: its log, its hash."""
    return sorted(path for path in folder.path.glob(f"{folder.ledger.name}*") if path.is_file())


def _try_copy(folder: RunFolder) -> dict[str, Scalar]:
    """Opens a copy of the ledger as a run does, and returns its settings.

    Raises:
      LedgerError: it cannot be opened, or is damaged.
      OSError: it could not be copied.
    """
    with tempfile.TemporaryDirectory(prefix="autoresearch-doctor-") as scratch:
        for path in _files(folder):
            if not path.name.endswith(_SHARED_MEMORY):
                shutil.copyfile(path, Path(scratch) / path.name)
        copy = Path(scratch) / folder.ledger.name
        try:
            _require_whole_pages(copy)
            with closing(Ledger.open(copy)) as ledger:
                ledger.experiments()
                return ledger.settings()
        except LedgerError as error:
            raise LedgerError(str(error).replace(str(copy), str(folder.ledger))) from error
        except (ValueError, LookupError, TypeError) as error:
            raise LedgerError(f"{folder.ledger}: cannot be understood: {error}: restore it from a copy") from error


def _require_whole_pages(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise LedgerError(
            f"{path}: is damaged ({' '.join(found.split())}): restore it from a copy; `autoresearch verify` tells more"
        )


def _settings(folder: RunFolder, stored: Mapping[str, Scalar], wanted: Callable[[], Mapping[str, Scalar]]) -> Check:
    if not stored:
        return Check("settings", "none yet")
    try:
        now = wanted()
    except UserError as error:  # of which another section says what helps
        return Check("settings", f"not compared: {error}")
    try:
        check_settings(stored, now, folder.path)
    except RunFolderError as error:
        return refusal("settings", error)
    return Check("settings", "those that the run was started with")
