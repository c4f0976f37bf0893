"""Folders for a while that tell whose they are, so that those of a killed process are found and removed."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoresearch_jax.sandbox.machine import PROC, ProcessIdentity, this_process

_UNKNOWN = 0  # in place of a start that the kernel does not tell
_HASH_DIGITS = 6
_OF_ONE_KERNEL = {"ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs"}  # never mounted by two at once


@contextmanager
def scratch_folder(
    name: str, parent: Path | None, remove: Callable[[Path], None], me: ProcessIdentity | None = None
) -> Iterator[Path]:
    """A new folder, removed at the end; before that, those are removed that processes left here which are gone.

    Other machines and containers may use `parent` too: what may be of a living process of theirs is left alone.

    Args:
      name: what the folder's name begins with, such as ".trace-": no other code may make such names in `parent`.
      parent: an existing folder; None for the system's folder of temporary files.
      remove: a folder and all that is in it, whoever may have written there.
      me: this process; None to find out.

    Raises:
      OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    me = me or this_process()
    _sweep(name, place, remove, me)
    owner = f"{'-'.join(_machine(me))}-{me.pid}-{me.started or _UNKNOWN}"
    folder = Path(tempfile.mkdtemp(prefix=f"{name}{owner}-", dir=place)).resolve()
    try:
        yield folder
    finally:
        remove(folder)


def _sweep(name: str, place: Path, remove: Callable[[Path], None], me: ProcessIdentity) -> None:
    for path in place.glob(f"{name}*-*-*-*-*-*"):
        *machine, pid, started, _ = path.name.removeprefix(name).split("-", 5)
        if not (pid.isdecimal() and started.isdecimal()):
            continue
        process = ProcessIdentity("", int(pid), started=int(started) or None)
        with suppress(OSError):  # gone meanwhile
            is_own = path.lstat().st_uid == os.getuid() and path.is_dir()
            if is_own and _is_gone(process, machine, _machine(me), path):
                remove(path)


def _machine(process: ProcessIdentity) -> list[str]:
    """Short hashes of the host's name, the boot, and the namespace that a process's number counts in."""
    of_process = (process.host, process.boot, process.namespace)
    return [hashlib.sha256(str(value).encode()).hexdigest()[:_HASH_DIGITS] for value in of_process]


def _is_gone(process: ProcessIdentity, machine: list[str], own: list[str], path: Path) -> bool:
    """Whether the owner of a folder cannot be alive: where that cannot be told, it may be."""
    if machine == own:
        return not process.is_running()
    is_of_former_boot = machine[0] == own[0] and machine[1] != own[1]
    return is_of_former_boot and _file_system(path) in _OF_ONE_KERNEL


def _file_system(path: Path) -> str | None:
    """The kind of file system that a folder is on; None where the kernel does not tell."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in (PROC / "self" / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        of_mount, _, of_system = line.partition(
            " - "
        )  # https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
        if of_mount.split()[2] == wanted:
            return of_system.split()[0]
    return None
