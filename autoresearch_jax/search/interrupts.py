"""SIGINT, SIGTERM, SIGHUP: end the run between two steps, or in the midst of one that may be cut short."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; a shutdown, or a cloud that wants its machine back; a terminal that goes away
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Remembers that the process was asked to end.

    Inside `allowed` the first signal raises KeyboardInterrupt; elsewhere it waits for the next `allowed`. A second
    signal has its usual effect, at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._is_allowed = False

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
        self.requested = True
        for other in SIGNALS:
            if signal.getsignal(other) == self._handle:
                signal.signal(other, signal.SIG_DFL)
        if self._is_allowed:
            raise KeyboardInterrupt
