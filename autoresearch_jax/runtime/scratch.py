"""Folders for a while that tell whose they are, so that those of a killed process are found and removed."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoresearch_jax.runtime.machine import ProcessIdentity, this_process

_UNKNOWN = 0  # in place of a start that the kernel does not tell


@contextmanager
def scratch_folder(name: str, parent: Path | None, remove: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder, removed at the end; before that, those are removed that processes left here which are gone.

    Args:
      name: what the folder's name begins with, such as ".trace-": no other code may make such names in `parent`.
      parent: an existing folder that no other machine uses; None for the system's folder of temporary files.
      remove: a folder and all that is in it, whoever may have written there.

    Raises:
      OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    _sweep(name, place, remove)
    me = this_process()
    folder = Path(tempfile.mkdtemp(prefix=f"{name}{me.pid}-{me.started or _UNKNOWN}-", dir=place)).resolve()
    try:
        yield folder
    finally:
        remove(folder)


def _sweep(name: str, place: Path, remove: Callable[[Path], None]) -> None:
    for path in place.glob(f"{name}*-*-*"):
        owner, started, _ = path.name.removeprefix(name).split("-", 2)
        if not (owner.isdecimal() and started.isdecimal()):
            continue
        process = ProcessIdentity("", int(owner), started=int(started) or None)
        with suppress(OSError):  # gone meanwhile
            if path.lstat().st_uid == os.getuid() and path.is_dir() and not process.is_running():
                remove(path)
