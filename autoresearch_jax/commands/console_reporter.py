"""The progress of a preparation on stderr."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from autoresearch_jax.tasks.lm.data.corpus import Reporter

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REFRESH_SECONDS = 0.1
_LINE_SECONDS = 30.0


class ConsoleReporter(Reporter):
    """A bar on a terminal; else one line when a stage begins and one every half minute, for logs."""

    def __init__(self) -> None:
        self.made = False  # whether there was anything to do
        self._bar: tuple[Progress, TaskID] | None = None
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._shown = 0.0

    def __enter__(self) -> "ConsoleReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_stage()

    def note(self, text: str) -> None:
        """One line, above the bar if there is one."""
        if self._bar is not None:
            self._bar[0].console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def stage(self, what: str, total: int | None) -> None:
        """The next stage begins."""
        self._end_stage()
        self.made = True
        self._what, self._total, self._done = what, total, 0
        self._shown = time.monotonic()
        if sys.stderr.isatty():
            progress = _progress_bar()
            progress.start()
            self._bar = progress, progress.add_task(what, total=total)
            return
        self.note(what if total is None else f"{what}, {total} documents")

    def advance(self) -> None:
        """One more document is done."""
        self._done += 1
        waited = time.monotonic() - self._shown
        if waited > (_LINE_SECONDS if self._bar is None else _REFRESH_SECONDS):
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=self._done)
            return
        of = "" if self._total is None else f" of {self._total}"
        print(f"{self._what}: {self._done}{of} documents", file=sys.stderr, flush=True)

    def _end_stage(self) -> None:
        if self._bar is not None:
            self._show()
            self._bar[0].stop()
            self._bar = None


def _progress_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True))
