"""Which process on which machine this is, told so that another process can find out later whether it still runs."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_DEAD_STATES = "ZX"  # has ended, and its parent has not asked for its status yet


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told from every other that had or will have the same number.

    Attributes:
      host: name of the machine; several machines may have the same one.
      pid: as the process itself sees it.
      boot: the kernel's name for the time since the machine was started; None where it has none.
      namespace: in which `pid` counts; None where there are no such things.
      started: when the process began, in the kernel's ticks since the boot; None where it does not tell.
    """

    host: str
    pid: int
    boot: str | None = None
    namespace: str | None = None
    started: int | None = None

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def shares_kernel(self, other: "ProcessIdentity") -> bool:
        """True if both belong to one machine, and it was not started anew between them."""
        if self.boot is None and other.boot is None:
            return self.host == other.host
        return self.boot == other.boot

    def is_running(self, proc: Path = PROC) -> bool:
        """Whether the process runs; only if this process shares its kernel and its namespace."""
        if _counts_as_we_do(proc) and (state := _state_and_start(proc / str(self.pid))) is not None:
            return state[0] not in _DEAD_STATES and self.started in (None, state[1])
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True


def this_process(proc: Path = PROC) -> ProcessIdentity:
    """The identity of this process.

    Args:
      proc: where the kernel tells of processes; may be missing, as it is outside Linux.
    """
    started = _state_and_start(proc / "self")
    return ProcessIdentity(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot=_boot(proc),
        namespace=_link(proc / "self" / "ns" / "pid"),
        started=None if started is None else started[1],
    )


def _counts_as_we_do(proc: Path) -> bool:
    """False for a /proc of another namespace, such as one left from before this process got its own."""
    return _link(proc / "self") == str(os.getpid())


def _state_and_start(folder: Path) -> tuple[str, int] | None:
    """A process's state and start: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()  # from the third on
        return fields[0].decode(), int(fields[19])
    except (OSError, IndexError, ValueError):  # not there, or no longer
        return None


def _boot(proc: Path) -> str | None:
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
