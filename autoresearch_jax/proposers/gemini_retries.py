"""The one layer that asks again: exponential back-off with full jitter, within the time of a proposal."""

import email.utils
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from autoresearch_jax.proposers.gemini_settings import GeminiOptions

MOST_WAIT_SECONDS = 3600.0  # of what a server asks for: it is asked again each hour at least

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


def wanted_wait(details: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """How many seconds a server wants to be left alone, by the error's details or the header; None if it is silent."""
    wanted = []
    for detail in _details(details):
        if "RetryInfo" in str(detail.get("@type")):
            wanted.append(_seconds(detail.get("retryDelay")))
    wanted.append(_seconds(headers.get("Retry-After")))
    known = [min(seconds, MOST_WAIT_SECONDS) for seconds in wanted if seconds is not None]
    return max(known, default=None)


def _details(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    error = body.get("error", body)
    details = error.get("details") if isinstance(error, Mapping) else None
    return [detail for detail in details if isinstance(detail, Mapping)] if isinstance(details, list) else []


def _seconds(value: object) -> float | None:
    """Seconds of "34", "34.07s", {"seconds": 34} or an HTTP date; None of what is none of them."""
    if isinstance(value, Mapping):
        value = value.get("seconds")
    text = str(value).strip() if value is not None else ""
    if re.fullmatch(r"\d{1,18}(\.\d{1,18})?s?", text):
        return float(text.rstrip("s"))
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
