"""SIGINT and SIGTERM: end the run between two steps, or in the midst of one that may be cut short."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        """Handles the signals of this process inside; only in the main thread."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
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
        for signal_number in SIGNALS:
            signal.signal(signal_number, signal.SIG_DFL)
        if self._is_allowed:
            raise KeyboardInterrupt
