"""Failures in a trial that are a disk's: found among the causes of whatever was raised. Loads no JAX."""

import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import causes

# What no candidate brings about in code that only reads and writes our own files
_NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE})
_TOLD = re.compile(r"os_error_code='?(\d+)")  # of TensorStore, which writes for Orbax and raises no OSError
_WORDS = {os.strerror(number): number for number in _NUMBERS}


def disk_error(error: BaseException) -> OSError | None:
    """The error of a disk that led to this one; None if there is none.

    Only the numbers of errors count, not what is said: XLA and candidates have words of their own.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in _NUMBERS:
            return cause
    return None


def disk_error_of_storage(error: BaseException, folder: Path) -> OSError | None:
    """The same for what was raised while only files were written: then the words of a library tell, too.

    Args:
      error: what was raised.
      folder: where it wrote; named where the error names nothing.
    """
    if (found := disk_error(error)) is not None:
        return found
    numbers = (_told(str(cause)) for cause in causes(error))
    return next((new_disk_error(number, folder) for number in numbers if number is not None), None)


def disk_error_of_trace(text: str, folder: Path, least_free_bytes: int) -> OSError | None:
    """The same for what a candidate's own Python printed: its word, which counts only where the disk bears it out.

    Args:
      text: what it printed.
      folder: on the disk that it could write to; what it wrote is removed by now.
      least_free_bytes: that it may use; where there is less, it is not to blame for a full disk.
    """
    number = _told(text)
    if number is None or shutil.disk_usage(folder).free >= least_free_bytes:
        return None
    return new_disk_error(number, folder)


def _told(text: str) -> int | None:
    """The number of a disk's error that a text tells of; None if it tells of none."""
    told = [int(found) for found in _TOLD.findall(text)]
    told += [number for words, number in _WORDS.items() if words in text]
    return next((number for number in told if number in _NUMBERS), None)


def new_disk_error(number: int, path: str | Path) -> OSError:
    """An error as the system raises it, for who handles failures by their causes."""
    return OSError(number, os.strerror(number), str(path))


def to_json(error: OSError) -> dict[str, Any]:
    """An error of a disk as a trial's process tells the driver."""
    return {"errno": error.errno, "path": None if error.filename is None else os.fsdecode(error.filename)}


def from_json(fields: Mapping[str, Any], folder: Path) -> OSError:
    """What `to_json` told; `folder` is named where it names no path."""
    return new_disk_error(int(fields["errno"]), fields["path"] or folder)
