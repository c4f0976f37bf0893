"""What commands show while they work: a live line of a trial, the progress of a preparation."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from autoresearch_jax.report.progress import describe_report
from autoresearch_jax.tasks.lm.data.corpus import Reporter
from autoresearch_jax.types import Scalar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_LINE_SECONDS = 10.0  # between two lines about a trial in a log file
LIVE_LINE_SECONDS = 0.1  # between two states of a line on a terminal
STAGE_LINE_SECONDS = 30.0  # between two lines about a preparation in a log file
PLAIN_TERMINALS = "dumb", "unknown"  # values of TERM: lines cannot be taken back there
FALLBACK_SIZE = 80, 24  # columns and lines of a terminal that does not tell
CLEAR_LINE = "\r\x1b[2K"


def say(text: str, stream: TextIO) -> None:
    """Prints a line; after a failure, as when the terminal is gone, the stream's output is dropped."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        drop_output(stream)


def drop_output(stream: TextIO) -> None:
    """Drops what is written to a stream from now on, and what it still has to write."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class PatientTerminal:
    """Writes to a terminal and never waits for it: what it does not take now is kept, and goes before what comes next.

    A terminal takes nothing after Ctrl-S, or while a connection is lost. It is opened anew for this, since other
    programs that write to it share what is set for this process's own streams.
    """

    def __init__(self, stream: TextIO) -> None:
        """Raises OSError where the terminal of a stream cannot be opened."""
        self._descriptor = os.open(os.ttyname(stream.fileno()), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        self._pending = bytearray()
        self.encoding = stream.encoding

    def write(self, text: str) -> int:
        """Takes in a text, which `flush` writes."""
        self._pending += text.encode(self.encoding, "replace")
        return len(text)

    def flush(self) -> None:
        """Writes as much as the terminal takes; raises OSError if it is gone."""
        with suppress(BlockingIOError):
            while self._pending:
                del self._pending[: os.write(self._descriptor, self._pending)]

    def has_taken_all(self) -> bool:
        """Whether nothing is left to write; raises OSError if the terminal is gone."""
        self.flush()
        return not self._pending

    def is_of(self, stream: TextIO) -> bool:
        """Whether a stream writes to this terminal, too."""
        try:
            return stream.isatty() and os.ttyname(stream.fileno()) == os.ttyname(self._descriptor)
        except (OSError, ValueError):
            return False

    def isatty(self) -> bool:
        """As of any file."""
        return True

    def fileno(self) -> int:
        """As of any file."""
        return self._descriptor

    def close(self) -> None:
        """Ends it; what was not taken is lost."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def terminal_size(stream: TextIO | PatientTerminal) -> tuple[int, int]:
    """Columns and lines of the terminal that a stream writes to."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return FALLBACK_SIZE
    return size.columns or FALLBACK_SIZE[0], size.lines or FALLBACK_SIZE[1]


def notices_of(command: str) -> Callable[[str], None]:
    """A function that prints what the user of a command should know, on standard error."""
    return lambda text: say(f"autoresearch {command}: {text}", sys.stderr)


print_notice = notices_of("run")


class LiveLine:
    """One line about the running trial, from what its task reports; `show` begins the line of the next trial.

    On a terminal it is rewritten, and taken away by `close`; elsewhere a line is printed now and then. A terminal that
    is gone disturbs nothing.
    """

    def __init__(self, prefix: str = "", stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._shown = False
        self.show(prefix)

    def show(self, prefix: str) -> None:
        """Begins a line for the next trial."""
        self.close()
        self.prefix = prefix
        self._last_line = 0.0 if self._live else time.monotonic()
        self._phase: Scalar = None

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """Shows how far the trial is."""
        now = time.monotonic()
        is_new_phase = self._live and report.get("phase") != self._phase
        if now - self._last_line < (LIVE_LINE_SECONDS if self._live else PLAIN_LINE_SECONDS) and not is_new_phase:
            return
        self._last_line = now
        self._phase = report.get("phase")
        line = self.prefix + describe_report(report)
        # a line that wraps could not be taken back
        self._write(f"{CLEAR_LINE}{line[: terminal_size(self._stream)[0] - 1]}" if self._live else f"{line}\n")
        self._shown = True

    def close(self) -> None:
        """Takes the line away until the next report."""
        if self._live and self._shown:
            self._shown = False
            self._write(CLEAR_LINE)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class AuditLine(LiveLine):
    """Shows what an audit measures, and how far it is."""

    def prepares(self, subject: str) -> None:
        """Names the text in the live line."""
        self.show(f"{subject}  ")
        self.progress({"phase": "prepare"})

    def measures(self, subject: str, number: int, total: int) -> None:
        """Names the trial in the live line."""
        self.show(f"trial {number}/{total}  {subject}  ")


class PreparationProgress(Reporter):
    """A bar on a terminal; else one line when a stage begins and one every half minute, for logs. On standard error."""

    def __init__(self) -> None:
        self.made = False  # whether there was anything to do
        self._bar: tuple[Progress, TaskID] | None = None
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._shown = 0.0

    def __enter__(self) -> "PreparationProgress":
        return self

    def __exit__(self, *exception: object) -> None:
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
        if waited > (STAGE_LINE_SECONDS if self._bar is None else LIVE_LINE_SECONDS):
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
