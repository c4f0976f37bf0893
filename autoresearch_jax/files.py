"""The package's only atomic write, file hash, lock between processes and measure of free space; errors of disks."""

import codecs
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import causes

# Errors that code which reads and writes only our own files gets from a disk alone
DISK_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or move the run's folder (--run_dir)",
    errno.EDQUOT: "your quota of the disk is used up: remove some files, or have it raised",
    errno.EROFS: "it can only be read now: mount its disk writable again (`dmesg` may say why it is not)",
    errno.EIO: "its disk fails: `dmesg` may say why",
    errno.ESTALE: "its disk does not answer any more: mount it again",
}
_TOLD = re.compile(r"os_error_code='?(\d+)")  # of TensorStore, which writes for Orbax and raises no OSError
_WORDS = {os.strerror(number): number for number in DISK_REMEDIES}


def plain_text(data: bytes) -> str:
    """Text as tools write it: UTF-8, without its byte-order mark, lines that end in one character.

    Raises:
      UnicodeDecodeError: it is not UTF-8.
    """
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def as_written(text: str, like: bytes) -> bytes:
    """A text in the form of another one, of which `plain_text` makes such: its byte-order mark and most of its ends."""
    mark = codecs.BOM_UTF8 if like.startswith(codecs.BOM_UTF8) else b""
    counts = {b"\r\n": like.count(b"\r\n")}
    counts[b"\n"], counts[b"\r"] = (like.count(end) - counts[b"\r\n"] for end in (b"\n", b"\r"))
    end = max((b"\n", b"\r\n", b"\r"), key=lambda end: counts[end])
    return mark + text.encode().replace(b"\n", end)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def write_whole(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Replaces `path` in one step, text as UTF-8: a reader, or a kill, sees the old content or the new one.

    A failed write leaves the old content and no partial file. Without `sync` a power cut may leave an empty file.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # another process may be writing it, too
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            if sync:  # else a power cut after the rename could leave an empty file under the name
                os.fsync(file.fileno())
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


def disk_error(error: BaseException) -> OSError | None:
    """The error of a disk that led to this one; None if there is none.

    Only the numbers of errors count, not what is said: XLA and candidates have words of their own.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_REMEDIES:
            return cause
    return None


def disk_error_of_storage(error: BaseException, folder: Path) -> OSError | None:
    """As `disk_error`, of an error raised while only files were written to `folder`: a library's words count, too."""
    if (found := disk_error(error)) is not None:
        return found
    numbers = (_told(str(cause)) for cause in causes(error))
    return next((new_disk_error(number, folder) for number in numbers if number is not None), None)


def disk_error_of_trace(text: str, folder: Path, least_free_bytes: int) -> OSError | None:
    """As `disk_error`, of what a candidate's Python printed, which counts only where the disk really is short of space.

    Args:
      text: what it printed.
      folder: on the disk that it could write to; what it wrote is removed by now.
      least_free_bytes: the room it may use; with less free than that, the candidate did not fill the disk.
    """
    number = _told(text)
    if number is None or shutil.disk_usage(folder).free >= least_free_bytes:
        return None
    return new_disk_error(number, folder)


def _told(text: str) -> int | None:
    """The number of a disk's error that a text names, None if it names none."""
    told = [int(found) for found in _TOLD.findall(text)]
    told += [number for words, number in _WORDS.items() if words in text]
    return next((number for number in told if number in DISK_REMEDIES), None)


def new_disk_error(number: int, path: str | Path) -> OSError:
    """An error as the system raises it."""
    return OSError(number, os.strerror(number), str(path))


def disk_error_to_json(error: OSError) -> dict[str, Any]:
    """An error of a disk as a trial's process tells the driver."""
    return {"errno": error.errno, "path": None if error.filename is None else os.fsdecode(error.filename)}


def disk_error_from_json(fields: Mapping[str, Any], folder: Path) -> OSError:
    """The inverse of `disk_error_to_json`; `folder` is named where it names no path."""
    return new_disk_error(int(fields["errno"]), fields["path"] or folder)
