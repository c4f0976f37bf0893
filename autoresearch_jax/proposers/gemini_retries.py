"""The one layer that asks again: exponential back-off with full jitter, within the time of a proposal."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from autoresearch_jax.proposers.gemini_settings import GeminiOptions

T = TypeVar("T")


class Patience:
    """What is left of the time for all requests and waits of a proposal, and how it is spent."""

    def __init__(self, options: GeminiOptions, wait: Callable[[float], None]) -> None:
        """Begins with all of it.

        Args:
          options: how long, and how long each wait.
          wait: sleeps so many seconds.
        """
        self._options = options
        self._wait = wait
        self._random = random.Random()
        self.left = options.proposal_seconds

    def request_seconds(self) -> float:
        """How long the next request may take."""
        return max(0.0, min(self.left, self._options.request_seconds))

    def spend(self, work: Callable[[], T]) -> T:
        """Does some work; the time it takes is gone."""
        start = time.monotonic()
        try:
            return work()
        finally:
            self.left -= time.monotonic() - start

    def wait_before_retry(self, failures: int, wanted_seconds: float | None) -> bool:
        """Waits before asking again.

        Args:
          failures: in a row so far.
          wanted_seconds: what the server asked for, if it did; it is never asked before.

        Returns:
          False, at once, if that is longer than what is left.
        """
        longest = min(
            self._options.longest_wait_seconds, self._options.first_wait_seconds * 2.0 ** min(failures - 1, 60)
        )
        seconds = max(self._random.uniform(0.0, longest), wanted_seconds or 0.0)
        if seconds >= self.left:
            return False
        self.spend(lambda: self._wait(seconds))
        return self.left > 0
