"""The package's only atomic write, file hash, lock between processes and measure of free space."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces `path` in one step, text as UTF-8: a reader, or a kill, sees the old content or the new one.

    A failed write leaves the old content and no partial file.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another process may be writing it, too
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut after the rename could leave an empty file under the name
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Replaces `path` by the JSON of `value`, as `write_whole` does."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def partial_folder(path: Path) -> Path:
    """Where a folder is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds a lock that only one process can hold; the system frees it when the process dies.

    Args:
      path: the lock file, made if it is missing.
      on_wait: called once if another process holds the lock, before waiting for it.
    """
    from filelock import FileLock, Timeout  # its import takes a quarter of a second

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
