"""Files that are written whole or not at all: hashes, atomic JSON, and a lock between processes."""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.1


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Replaces `path` by the JSON of `value` in one step; a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())  # else a power cut after the rename could leave an empty file under the name
    partial.replace(path)


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not be there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def partial_folder(path: Path) -> Path:
    """Where a folder is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def exclusive_lock(
    path: Path, on_wait: Callable[[], None], still_waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Holds a lock that only one process can hold; the system frees it when the process dies.

    Args:
      path: the lock file, made if it is missing and left where it is.
      on_wait: called once if another process holds the lock, before waiting for it.
      still_waiting: called again and again meanwhile; raises to wait no longer. A thread that is not the main one
        cannot be interrupted otherwise.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            while still_waiting is not None and not _try_lock(file):
                still_waiting()
                time.sleep(_POLL_SECONDS)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
