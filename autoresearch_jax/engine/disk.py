"""Free space on a run's disk, checked before anything is begun; and failures that the disk caused."""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.errors import causes
from autoresearch_jax.files import DISK_REMEDIES

_GIB = 2**30  # as --min_free_gb counts
_MIB = 2**20
_PROBE_BYTES = 4096  # one block: less might fit where nothing else does
_GOES_ON = "the same command goes on from here"
_SLOW = "its disk takes too long: use another one (--run_dir), or find out what else keeps it busy"
_SQLITE_TROUBLES = {  # by the error's name or message
    "SQLITE_IOERR_SHMSIZE": DISK_REMEDIES[errno.ENOSPC],  # its message is "disk I/O error" as well
    "database or disk is full": DISK_REMEDIES[errno.ENOSPC],
    "attempt to write a readonly database": (
        f"{DISK_REMEDIES[errno.EROFS]}, or its modes forbid it (ledger.db-shm's and -wal's too)"
    ),
    "disk I/O error": DISK_REMEDIES[errno.EIO],
    "unable to open database file": "it cannot be opened: check that its folder is there, and who may write to it",
}


class DiskError(RunError):
    """The run's disk is full, cannot be written or does not answer; nothing that needs it was begun."""


class DiskGuard:
    """Checks the disk of a run's folder, and that of its snapshots where they have another."""

    def __init__(self, folder: RunFolder, min_free_bytes: int) -> None:
        """Touches nothing yet; `min_free_bytes` are to stay free."""
        self._path = folder.path
        self._snapshots = folder.snapshots
        self._min_free_bytes = min_free_bytes

    def require_room(self, more_bytes: int = 0) -> None:
        """Checks that `more_bytes` fit and that the folder can be written to, by writing a small file.

        Raises:
          DiskError: the bytes do not fit, or the folder cannot be written to; the message says what to do, and that the
            run goes on afterwards.
        """
        if _is_mounted_apart(self._snapshots, self._path):
            self._require_room(self._path, 0)
            self._require_room(self._snapshots, more_bytes)
        else:
            self._require_room(self._path, more_bytes)

    def _require_room(self, path: Path, more_bytes: int) -> None:
        try:
            free_bytes = _free_bytes(path)
            if free_bytes is not None and free_bytes < self._min_free_bytes + more_bytes:
                raise DiskError(self._too_little(path, free_bytes, more_bytes))
            _write_probe(path)
        except OSError as error:
            raise DiskError(f"{_cannot_write(path, error)}; {_GOES_ON}") from error

    def _too_little(self, path: Path, free_bytes: int, more_bytes: int) -> str:
        needs = [f"{_size(more_bytes)} are needed for what comes next"] if more_bytes else []
        remedies = ["free some space", "move the run's folder (--run_dir)"]
        if self._min_free_bytes:
            needs.append(f"{_size(self._min_free_bytes)} are to stay free (--min_free_gb)")
            remedies.insert(1, "lower --min_free_gb")
        return (
            f"{path}: {_size(free_bytes)} are free on its disk, but {' and '.join(needs)}: "
            f"{', '.join(remedies[:-1])}, or {remedies[-1]}; {_GOES_ON}"
        )


def disk_trouble(error: BaseException) -> str | None:
    """One line on how the disk caused a failure, with the file and the remedy; None if it did not."""
    for cause in causes(error):
        if isinstance(cause, DiskError):
            return str(cause).removesuffix(f"; {_GOES_ON}")
        if isinstance(cause, OSError):
            trouble = DISK_REMEDIES.get(cause.errno or 0)
            is_named = isinstance(cause.filename, str | bytes | os.PathLike)
            if cause.errno == errno.ETIMEDOUT and is_named:  # without a name it is a socket's
                trouble = _SLOW
            if trouble is not None:
                return f"{os.fsdecode(cause.filename) if is_named else 'a file'}: {trouble}"
        if isinstance(cause, sqlite3.Error):
            for said, trouble in _SQLITE_TROUBLES.items():
                if said in (getattr(cause, "sqlite_errorname", None), str(cause)):
                    return f"the ledger: {trouble}"
    return None


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            if (free_bytes := _free_bytes(path)) and free_bytes > _PROBE_BYTES:
                return (
                    f"{path}: its disk takes no more files though {_size(free_bytes)} are free: remove some "
                    "(`df -i` tells how many it can hold), or move the run's folder (--run_dir)"
                )
    if (trouble := DISK_REMEDIES.get(error.errno or 0)) is not None:
        return f"{path}: {trouble}"
    return f"{path}: it cannot be written ({error.strerror}): check that it is there, and who may write to it"


def _is_mounted_apart(path: Path, parent: Path) -> bool:
    """Whether a folder, which may not be there yet, is on another file system than its parent."""
    try:
        return path.stat().st_dev != parent.stat().st_dev
    except FileNotFoundError:
        return False
    except OSError:  # it does not answer: trying to write there tells why
        return True


def _free_bytes(folder: Path) -> int | None:
    """What a user other than root may still write; None where the file system does not tell."""
    system = os.statvfs(folder)
    return system.f_bavail * system.f_frsize if system.f_blocks else None


def _write_probe(folder: Path) -> None:
    """Writes a small file to the disk and removes it: permissions alone say nothing to root."""
    path = folder / "room.partial"  # the next start removes it if this process is killed
    try:
        with path.open("wb", buffering=0) as file:
            file.write(bytes(_PROBE_BYTES))
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB / 10 else f"{num_bytes / _MIB:.1f} MiB"
