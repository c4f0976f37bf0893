"""The live line of a trial: elapsed, loss, tokens per second, time left; plain lines where there is no terminal."""

import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from autoresearch_jax.types import ATTENDED_SHARE, USUAL_SHARE, Scalar

PLAIN_LINE_SECONDS = 10.0  # between two lines in a log file
LIVE_LINE_SECONDS = 0.1  # between two states of the line on a terminal
FALLBACK_COLUMNS = 80  # of a terminal that does not tell
CLEAR_LINE = "\r\x1b[2K"


class TrialProgress:
    """Shows what a task reports while a trial runs.

    As a context manager it takes its line away at the end. On a terminal one line is rewritten; elsewhere a line is
    printed now and then.
    """

    def __init__(self, prefix: str = "", stream: TextIO | None = None) -> None:
        self._prefix = prefix
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._pause = LIVE_LINE_SECONDS if self._live else PLAIN_LINE_SECONDS
        self._last_line = 0.0 if self._live else time.monotonic()
        self._phase: Scalar = None
        self._shown = False

    def __call__(self, report: Mapping[str, Scalar]) -> None:
        now = time.monotonic()
        is_new_phase = self._live and report.get("phase") != self._phase
        if now - self._last_line < self._pause and not is_new_phase:
            return
        self._last_line = now
        self._phase = report.get("phase")
        line = self._prefix + describe(report)
        # a line that wraps could not be taken back
        self._stream.write(f"{CLEAR_LINE}{line[: self._columns() - 1]}" if self._live else f"{line}\n")
        self._stream.flush()
        self._shown = True

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or FALLBACK_COLUMNS
        except (OSError, ValueError):
            return FALLBACK_COLUMNS

    def __enter__(self) -> "TrialProgress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live and self._shown:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()


def describe(report: Mapping[str, Scalar]) -> str:
    """One line of a report, from whichever of its numbers are there."""
    parts = [str(report.get("phase", ""))]
    elapsed, seconds, steps = (report.get(name) for name in ("elapsed_seconds", "budget_seconds", "budget_steps"))
    step = report.get("step")
    if isinstance(step, int):
        parts.append(f"step {step}" if steps is None else f"step {step}/{steps}")
    if isinstance(elapsed, int | float):
        parts.append(f"{elapsed:.0f} s" if seconds is None else f"{elapsed:.0f}/{seconds:.0f} s")
        if isinstance(seconds, int | float):
            parts.append(f"{max(0.0, seconds - elapsed):.0f} s left")
        elif isinstance(steps, int) and isinstance(step, int) and step:
            parts.append(f"{elapsed / step * (steps - step):.0f} s left")
    for name, words in (
        ("loss", "loss {:.4f}"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
        ("share", "{:.0%}"),
    ):
        value = report.get(name)
        if isinstance(value, int | float):
            parts.append(words.format(value))
    attended = report.get(ATTENDED_SHARE)
    if isinstance(attended, int | float) and attended < USUAL_SHARE:
        parts.append(f"{attended:.0%} attended")
    return "  ".join(part for part in parts if part)
