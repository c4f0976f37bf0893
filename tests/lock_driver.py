"""A process that locks a run's folder, for tests that kill it: JSON of what is wanted, see `Wanted`.

Prints "ready". Then each line of its input is a command, answered by a line. The first one, whatever it is, takes the
lock: it is answered by "held" or "refused: ...", after a "notice: ..." for each.
"""

import errno
import json
import os
import signal
import struct
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from autoresearch_jax.engine.driver_lock import DriverLock, DriverLockError, LockTiming
from autoresearch_jax.sandbox.machine import this_process
from autoresearch_jax.sandbox.seccomp import install_filter

FLOCK = {"x86_64": 73, "aarch64": 32}.get(os.uname().machine)  # number of the system call


@dataclass(frozen=True)
class Wanted:
    """What such a process is to do.

    Attributes:
      path: the lock's file.
      timing: as for `LockTiming`.
      me: what differs in its identity from what it is.
      has_flock: False to have the kernel say that there are no such locks here.
    """

    path: str
    timing: dict[str, float] = field(default_factory=dict)
    me: dict[str, str] = field(default_factory=dict)
    has_flock: bool = True

    def command(self) -> list[str]:
        return [sys.executable, __file__, json.dumps(asdict(self))]


def forbid_flock() -> None:
    """From here on the kernel refuses it to this process, as it does on a file system that has no such locks."""
    load_number, jump_equal, give_back = 0x20, 0x15, 0x06
    allow, fail = 0x7FFF0000, 0x00050000 | errno.EOPNOTSUPP
    install_filter(
        struct.pack("HBBI", load_number, 0, 0, 0)
        + struct.pack("HBBI", jump_equal, 0, 1, FLOCK)
        + struct.pack("HBBI", give_back, 0, 0, fail)
        + struct.pack("HBBI", give_back, 0, 0, allow)
    )


def main() -> None:
    wanted = Wanted(**json.loads(sys.argv[1]))
    if not wanted.has_flock:
        forbid_flock()
    me = replace(this_process(), **wanted.me)
    lock = DriverLock(Path(wanted.path), LockTiming(**wanted.timing), me)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        lock.acquire(lambda text: print(f"notice: {text}", flush=True))
    except DriverLockError as error:
        print(f"refused: {error}", flush=True)
        return
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        signal.pause()
    print("held", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "release":
                lock.release()
                print("released", flush=True)
            case "require":
                try:
                    lock.require()
                    print("still held", flush=True)
                except DriverLockError as error:
                    print(f"lost: {error}", flush=True)
            case "leave":
                return


if __name__ == "__main__":
    main()
