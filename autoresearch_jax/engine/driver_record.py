"""What a driver writes into the lock of its run, and what the next one makes of it."""

import enum
import json
from dataclasses import asdict, dataclass

from autoresearch_jax.sandbox.machine import ProcessIdentity

_MIN_BYTES = 512  # one size, so that a record covers the one before it in a single write
_MAX_PID = 2**31 - 1


class Standing(enum.Enum):
    """What a record says of its writer."""

    GONE = "gone"
    AT_WORK = "at work"
    UNKNOWN = "unknown"  # this machine's kernel does not know it; only a sign of life can tell


@dataclass(frozen=True)
class DriverRecord:
    """Who is at work on a run.

    Attributes:
      process: None for a record that makes no sense.
      token: of this one time that the run was locked; empty for a record of an older version.
    """

    process: ProcessIdentity | None
    token: str = ""

    def __str__(self) -> str:
        return "another process" if self.process is None else str(self.process)

    @classmethod
    def parse(cls, text: str) -> "DriverRecord | None":
        """What is in the file; None if nobody is."""
        line = text.partition("\n")[0].strip(" \0")  # zeros are what a power cut leaves of a file
        if not line:
            return None
        match line.split():
            case ["pid", pid, "on", host] if pid.isdecimal():  # as it was written before there was a record
                return cls(ProcessIdentity(host, int(pid)))
        try:
            values = json.loads(line)
            process = ProcessIdentity(**{name: values[name] for name in ProcessIdentity.__dataclass_fields__})
            return cls(process, str(values["token"])) if _makes_sense(process) else cls(None)
        except (ValueError, TypeError, KeyError):
            return cls(None)

    def text(self) -> str:
        """One line, which `parse` reads."""
        assert self.process is not None
        return json.dumps({**asdict(self.process), "token": self.token}).ljust(_MIN_BYTES - 1) + "\n"

    def standing(self, reader: ProcessIdentity, *, kernel_decides: bool, is_recent: bool) -> Standing:
        """Whether its writer is at work, as far as can be told without waiting.

        Args:
          reader: this process.
          kernel_decides: nobody on this machine holds the kernel's lock; False where there is none to hold.
          is_recent: by this machine's clock the writer may have given a sign of life just now.
        """
        writer = self.process
        if writer is None:
            return Standing.UNKNOWN
        if not reader.shares_kernel(writer):  # the same machine started anew, or another one, maybe of the same name
            is_old = kernel_decides and not is_recent
            return Standing.GONE if is_old and reader.host == writer.host else Standing.UNKNOWN
        if kernel_decides:
            return Standing.GONE
        if reader.namespace != writer.namespace:
            return Standing.UNKNOWN
        return Standing.AT_WORK if writer.is_running() else Standing.GONE


def _makes_sense(process: ProcessIdentity) -> bool:
    return (
        isinstance(process.host, str)
        and isinstance(process.pid, int)
        and 0 < process.pid <= _MAX_PID
        and isinstance(process.boot, str | None)
        and isinstance(process.namespace, str | None)
        and isinstance(process.started, int | None)
    )
