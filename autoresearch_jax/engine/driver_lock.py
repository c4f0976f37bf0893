"""One driver at a time on a run: the kernel's lock on a file, and a record in it for where that lock does not reach.

The kernel's lock ends with its process, however that ends, and is all that is needed on a disk of this machine. Some
file systems have none, and on storage that several machines share each may know of its own locks alone. So whoever
holds it writes down who it is, and touches the file every few seconds: to another machine the only sign of life.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from autoresearch_jax.engine.driver_record import DriverRecord, Standing
from autoresearch_jax.errors import UserError
from autoresearch_jax.sandbox.machine import ProcessIdentity, this_process

_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}  # the last where a server keeps the locks
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK}
_TRY_SECONDS = 0.01
_LOOKS_PER_BEAT = 10

Notice = Callable[[str], None]


class DriverLockError(UserError):
    """Another driver is at work or has taken over, or the file of the lock cannot be used."""


@dataclass(frozen=True)
class LockTiming:
    """How long a lock waits, in seconds.

    Attributes:
      retry: for `holder` in another process, which has the kernel's lock for a moment, and for a killed process to end.
      settle: after writing where the kernel does not decide, for another process that writes at the same time.
      beat: between two signs of life.
      watch: without one, until a driver on another machine is taken for dead. A network file system or a mounted bucket
        may show for a minute what it knew of a file before; then a beat, and a bit.
    """

    retry: float = 0.5
    settle: float = 1.0
    beat: float = 10.0
    watch: float = 75.0


class _Look(NamedTuple):
    """What the file shows: its first line, and when it was last touched, in nanoseconds since 1970 of whoever did."""

    line: str
    touched: int

    @property
    def age(self) -> float:
        """Seconds since it was touched, by this machine's clock."""
        return time.time() - self.touched / 1e9


class DriverLock:
    """The lock of one run."""

    def __init__(self, path: Path, timing: LockTiming | None = None, me: ProcessIdentity | None = None) -> None:
        """Touches nothing yet.

        Args:
          path: the lock's file, in the run's folder.
          timing: None for the usual one.
          me: this process; None to find out.
        """
        self._path = path.absolute()  # wherever this process goes
        self._folder = path.parent  # as the user knows it
        self._timing = timing or LockTiming()
        self._me = me or this_process()
        self._token = ""
        self._descriptor: int | None = None
        self._released = threading.Event()

    def acquire(self, notice: Notice = lambda text: None) -> None:
        """Takes the lock for this process; waits for a while if a driver on another machine may be alive.

        Args:
          notice: told that it waits, how long, and what came of it, in one line each.

        Raises:
          DriverLockError: another process holds it, or the file cannot be written.
          KeyboardInterrupt: while it waited; nothing is held then.
        """
        assert self._descriptor is None, "held already"
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._unusable(error) from error
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        try:
            kernel_decides = self._lock(descriptor)
            has_watched = self._outlast_former(kernel_decides, notice)
            self._write(descriptor)
            if has_watched or not kernel_decides:
                time.sleep(self._timing.settle)
                if self._is_lost():
                    raise self._refusal()
            threading.Thread(target=self._beat, args=(self._released,), name="driver-lock", daemon=True).start()
        except BaseException:
            self._let_go(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Lets go of the lock; nothing happens if it is not held."""
        if self._descriptor is not None:
            self._released.set()
            self._let_go(self._descriptor)
            self._descriptor = None

    def require(self) -> None:
        """Makes sure that the lock is still this process's: it may have been taken for dead while its machine slept.

        Raises:
          DriverLockError: another process took over; this one must not write to the run any more.
        """
        if self._is_lost():
            raise DriverLockError(
                f"{self._folder}: {self._record() or 'another process'} took this run over while this machine gave no "
                "sign of life: this process leaves it alone"
            )

    def holder(self) -> str | None:
        """Who holds the lock, such as "pid 12 on box"; None if nobody does. Writes nothing, and waits for nothing.

        Raises:
          DriverLockError: the file is there and cannot be read.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error
        try:
            if self._record() is None:  # the kernel need not be asked, and no driver that starts is in anybody's way
                return None
            kernel_decides = _try_lock(descriptor, fcntl.LOCK_SH)
        except BlockingIOError:
            return str(self._record() or "another process")
        except OSError:  # such as on a share that this machine may only read
            kernel_decides = False
        finally:
            os.close(descriptor)
        look = self._look()
        record = DriverRecord.parse(look.line) if look else None
        if look is None or record is None:
            return None
        standing = self._standing(record, look, kernel_decides)
        if standing is Standing.UNKNOWN:  # two machines' clocks may differ by seconds; nothing depends on this
            standing = Standing.AT_WORK if abs(look.age) <= self._timing.watch else Standing.GONE
        return str(record) if standing is Standing.AT_WORK else None

    def _lock(self, descriptor: int) -> bool:
        """Takes the kernel's lock; returns False where there is none to take."""
        deadline = time.monotonic() + self._timing.retry
        while True:
            try:
                return _try_lock(descriptor, fcntl.LOCK_EX)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise self._refusal() from error
            except OSError as error:
                raise self._unusable(error) from error
            time.sleep(_TRY_SECONDS)

    def _outlast_former(self, kernel_decides: bool, notice: Notice) -> bool:
        """Returns once whoever wrote the record is known to be gone; True if that took watching it."""
        has_watched = False
        deadline = time.monotonic() + self._timing.retry
        while True:
            look = self._look()
            record = DriverRecord.parse(look.line) if look else None
            if look is None or record is None:
                return has_watched
            standing = self._standing(record, look, kernel_decides)
            if standing is Standing.GONE:
                return has_watched
            if standing is Standing.AT_WORK:
                if time.monotonic() > deadline:
                    raise self._refusal()
                time.sleep(_TRY_SECONDS)
                continue
            has_watched = True
            notice(
                f"{self._folder}: {record} was at work on this run last: waiting up to {self._timing.watch:g} s for a "
                "sign of life before this process takes over"
            )
            seen = self._watch(look)
            if seen == look:
                notice(f"{self._folder}: no sign of life of {record}: this process takes over")
                return True
            if seen.line == look.line:
                raise self._refusal()

    def _standing(self, record: DriverRecord, look: _Look, kernel_decides: bool) -> Standing:
        is_recent = look.age <= self._timing.watch  # as is what has yet to come, where a clock is wrong
        return record.standing(self._me, kernel_decides=kernel_decides, is_recent=is_recent)

    def _watch(self, before: _Look) -> _Look:
        """The file as soon as it shows something else; as it was if it never does."""
        deadline = time.monotonic() + self._timing.watch
        while time.monotonic() < deadline:
            time.sleep(self._timing.beat / _LOOKS_PER_BEAT)
            if (look := self._look()) not in (None, before):
                return look
        return before

    def _write(self, descriptor: int) -> None:
        try:
            os.pwrite(descriptor, DriverRecord(self._me, self._token).text().encode(), 0)
            os.fsync(descriptor)  # a mounted bucket shows it to others from then on
        except OSError as error:
            raise self._unusable(error) from error

    def _beat(self, released: threading.Event) -> None:
        """Touches the file again and again: never its text, which may be another process's at any moment."""
        while not released.wait(self._timing.beat):
            if self._is_lost():
                return
            with contextlib.suppress(OSError):  # a disk that is full or gone is for those to find who need it
                os.utime(self._path)

    def _let_go(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            if (record := self._record()) is not None and record.token == self._token:
                os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def _is_lost(self) -> bool:
        """True if the file says something else than this process has written; not if it cannot be read."""
        look = self._look()
        if look is None:
            return False
        record = DriverRecord.parse(look.line)
        return record is None or record.token != self._token

    def _record(self) -> DriverRecord | None:
        look = self._look()
        return DriverRecord.parse(look.line) if look else None

    def _look(self) -> _Look | None:
        """Opens the file anew, which is when a network file system asks its server; None if it cannot be read."""
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                return _Look(file.readline(), os.fstat(file.fileno()).st_mtime_ns)
        except OSError:
            return None

    def _refusal(self) -> DriverLockError:
        return DriverLockError(f"{self._folder}: {self._record() or 'another process'} is at work on this run already")

    def _unusable(self, error: OSError) -> DriverLockError:
        return DriverLockError(
            f"{self._folder}: driver.lock cannot be used: {error.strerror}: a run needs a folder that can be written to"
        )


def _try_lock(descriptor: int, kind: int) -> bool:
    """Takes the kernel's lock if it is free; returns False where the file system has no such locks.

    Raises:
      BlockingIOError: another process has it.
      OSError: the file cannot be locked.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        if error.errno in _TAKEN:
            raise BlockingIOError(error.errno, error.strerror) from error
        raise
    return True
