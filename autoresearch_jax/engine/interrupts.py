"""SIGINT, SIGTERM, SIGHUP: end the run between two steps, or in the midst of one that may be cut short."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; a shutdown, or a cloud that wants its machine back; a terminal that goes away
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO_SECONDS = (
    1.0  # a shell and the kernel both tell of a terminal that goes away, and a shutdown may follow: one order
)


class Interrupts:
    """Remembers that the process was asked to end.

    Inside `allowed` the first signal raises KeyboardInterrupt; elsewhere it waits for the next `allowed`. A second
    Ctrl-C ends the process at once, and so does any other signal that is no echo of the first.
    """

    def __init__(self) -> None:
        self._first: float | None = None  # `time.monotonic()` of the first signal
        self._is_allowed = False

    @property
    def requested(self) -> bool:
        """Whether a signal came in."""
        return self._first is not None

    @contextmanager
    def installed(self) -> Iterator["Interrupts"]:
        """Handles the signals of this process inside; only in the main thread. Under `nohup` no SIGHUP is one."""
        handled = [
            number for number in SIGNALS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)
        ]
        before = {number: signal.signal(number, self._handle) for number in handled}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Marks what may be cut short.

        Raises:
          KeyboardInterrupt: a signal came in, or had come in before.
        """
        self._is_allowed = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_allowed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._first is not None:
            if number == signal.SIGINT or time.monotonic() - self._first > ECHO_SECONDS:
                _end_at_once(number)
            return
        self._first = time.monotonic()
        if os.getpid() != 1:  # of which the kernel keeps all signals away that it does not handle
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # even where Python does not come to call us
        if self._is_allowed:
            raise KeyboardInterrupt


def _end_at_once(number: int) -> None:
    """Ends this process as the signal would."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container, which no signal ends
