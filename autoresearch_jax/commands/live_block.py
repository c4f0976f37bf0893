"""The live block of `autoresearch run` on a terminal: what runs, what is waited for, the champion, what came last."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

from autoresearch_jax.commands.console import PatientTerminal, say, terminal_size
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, plus_minus
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import Running, Waiting
from autoresearch_jax.engine.recorder import outcome
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.state import read_state
from autoresearch_jax.report.progress import describe_progress, describe_speed, share_done
from autoresearch_jax.report.tables import style_of
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import ATTENDED_SHARE, Metric, Scalar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

DRAW_SECONDS = 0.5  # between two states of a block that differ only in how far trials are
LABEL_COLUMNS = 12
BAR_COLUMNS = 30
LEAST_COLUMNS = 60  # of a terminal that has room for a bar
MOST_ROWS = 8  # of trials that run
OUTCOMES = 5  # of the last experiments


class LiveBlock:
    """A few lines at the bottom of a terminal, drawn when something happens, in any thread; nothing of it stays.

    The thread that reports draws it: a thread for it alone would take a processor from the trial. On a terminal
    that takes nothing it is not drawn, and lines that stay are printed later; one that is gone is written to no more.
    """

    def __init__(
        self, terminal: PatientTerminal, ledger: Ledger, metric: Metric, running: Callable[[], Sequence[Running]]
    ) -> None:
        """Draws nothing yet.

        Args:
          ledger: read when an experiment begins or ends, in that thread.
          running: what runs now, the oldest first.
        """
        self._terminal = terminal
        self._ledger = ledger
        self._metric = metric
        self._running = running
        self._lock = threading.RLock()
        self._console: Console | None = None
        self._live: Live | None = None
        self._is_off = False
        self._drawn_at = 0.0
        self._phases: Sequence[tuple[int, Scalar]] = ()  # of what runs
        self._waiting: Waiting | None = None
        self._down: Waiting | None = None
        self._champion = ""
        self._last: Sequence[ExperimentRow] = ()

    def begins(self) -> None:
        """Shows what is prepared, or the trial that begins."""
        self._read_ledger()
        with self._lock:
            self._draw()

    def progress(self) -> None:
        """Shows how far trials are."""
        with self._lock:
            before = self._phases
            self._phases = [(one.trial, one.report.get("phase")) for one in self._running()]
            if self._phases != before or time.monotonic() - self._drawn_at >= DRAW_SECONDS:
                self._draw()

    def waits(self, waiting: Waiting | None) -> None:
        """Shows what is waited for."""
        with self._lock:
            self._waiting = waiting
            self._draw()

    def service(self, down: Waiting | None) -> None:
        """Shows which service does not answer."""
        with self._lock:
            self._down = down
            if self._live is not None:
                self._draw()

    def ends(self) -> None:
        """An experiment is over; shown when the block is next drawn."""
        self._read_ledger()

    def say(self, lines: Sequence[str], stream: TextIO) -> None:
        """Prints lines above the block; they go by the same way if the stream is the same terminal."""
        with self._lock:
            was_shown = self._live is not None
            self._take_away()
            if not self._terminal.is_of(stream):
                for line in lines:
                    say(line, stream)
            else:
                with suppress(OSError):  # the terminal is gone
                    self._terminal.write("".join(f"{line}\n" for line in lines))
                    self._terminal.flush()
            if was_shown:
                self._draw()

    def close(self) -> None:
        """Takes the block away for good."""
        with self._lock:
            self._take_away()
            self._is_off = True
            self._terminal.close()

    def _take_away(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with self._harmless():
                live.stop()

    def _read_ledger(self) -> None:
        with self._lock, suppress(sqlite3.Error):  # which the run meets itself
            rows = [row for row in self._ledger.experiments() if row.kind is not Kind.TRIAL and not row.is_open]
            self._champion, self._last = self._describe_champion(rows), rows[-OUTCOMES:]

    def _describe_champion(self, rows: Sequence[ExperimentRow]) -> str:
        kept = [row for row in rows if row.decision is Action.KEEP]
        state = read_state(self._ledger)
        if state is None or not kept:
            return ""
        words = f"{kept[-1].id}  {self._metric.name} {plus_minus(state.score)}"
        if state.lineage is not None:
            return f"{words}  gain {plus_minus(state.lineage.posterior.gain_of(state.lineage.champion))}"
        if (first := kept[0].score) is None or (last := kept[-1].score) is None:
            return words
        return f"{words}  gain {plus_minus(Estimate(self._metric.gain(last, over=first), 0.0))}"

    def _draw(self) -> None:
        if self._is_off:
            return
        with self._harmless():
            if not self._terminal.has_taken_all():
                return
            self._drawn_at = time.monotonic()
            columns, lines = terminal_size(self._terminal)
            console = self._console = self._console or _new_console(self._terminal)
            console.size = columns, lines
            block = self._render(columns, lines)
            if self._live is None:
                from rich.live import Live

                self._live = Live(
                    block,
                    console=console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                    vertical_overflow="crop",
                )
                self._live.start(refresh=False)
                console.show_cursor(True)  # a kill would leave the terminal without
            self._live.update(block, refresh=True)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """No failure inside disturbs the run: from then on there is no block."""
        try:
            yield
        except Exception:  # the terminal is gone, or a fault of rich
            self._is_off = True

    def _render(self, columns: int, lines: int) -> "RenderableType":
        """As many of the lines as fit, each cut where the terminal ends."""
        from rich.console import Group

        running = self._running()
        shown = [_subject(running[0] if running else None)] if len(running) < 2 else _rows(running)
        if self._waiting is not None:
            shown.append(self._wait("waiting", self._waiting))
        elif len(running) == 1:
            shown += [_progress(running[0], columns), _line("", "  ".join(describe_speed(running[0].report)))]
        if self._down is not None:
            shown.append(self._wait("down", self._down))
        if self._champion:
            shown.append(_line("champion", self._champion, "bold"))
        if self._last:
            shown.append(self._outcomes())
        return Group(*shown[: max(1, lines - 2)])  # else its beginning would leave the screen, and stay there

    def _wait(self, label: str, waiting: Waiting) -> "RenderableType":
        since, again_at = (time.strftime("%H:%M:%S", time.localtime(at)) for at in (waiting.since, waiting.again_at))
        return _line(label, f"since {since}, tried again at {again_at}: {clean_line(waiting.what)}", "yellow")

    def _outcomes(self) -> "RenderableType":
        line = _line("last", "")
        for row in reversed(self._last):
            line.append(f"{row.id} ")
            line.append(word := outcome(row), style_of(word))
            line.append("  ")
        return line


def _new_console(terminal: PatientTerminal) -> "Console":
    from rich.console import Console

    return Console(file=cast(TextIO, terminal), force_terminal=True, markup=False, highlight=False, emoji=False)


def _line(label: str, words: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text.assemble((f"{label:<{LABEL_COLUMNS}}", "dim"), (words, style), no_wrap=True, overflow="ellipsis")


def _subject(running: Running | None) -> "RenderableType":
    if running is None:
        return _line("experiment", "none yet: it is being proposed")
    words = [str(running.experiment), running.proposer, running.hypothesis]
    return _line("experiment", "  ".join(word for word in words if word), "bold")


def _progress(running: Running, columns: int) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    report, share = running.report, share_done(running.report)
    words = _line("trial", running.doing, "cyan")
    parts = describe_progress(report)
    if isinstance(attended := report.get(ATTENDED_SHARE), int | float):
        parts.append(f"{attended:.0%} attended")
    figures = "  ".join(parts)
    grid = Table.grid(padding=(0, 2, 0, 0))
    if share is None or columns < LEAST_COLUMNS:
        grid.add_row(words, figures)
    else:
        grid.add_row(words, ProgressBar(total=1.0, completed=share, width=BAR_COLUMNS), figures)
    for column in grid.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    return grid


def _rows(running: Sequence[Running]) -> list["RenderableType"]:
    """A line each: experiment, run, share of the budget, loss, hypothesis."""
    rows = running if len(running) <= MOST_ROWS else running[: MOST_ROWS - 1]
    digits, width = max(len(str(one.experiment)) for one in rows), max(len(one.doing) for one in rows)
    shown: list[RenderableType] = []
    for one in rows:
        share, loss = share_done(one.report), one.report.get("loss")
        done = "" if share is None else f"{share:.0%}"
        reached = f"loss {loss:.4f}" if isinstance(loss, int | float) else ""
        line = _line("" if shown else "trials", f"{one.experiment:>{digits}}  ", "bold")
        line.append(f"{one.doing:<{width}}", "cyan").append(f"  {done:>4}  {reached:<11}  {one.hypothesis}")
        shown.append(line)
    if more := len(running) - len(rows):
        shown.append(_line("", f"and {more} more"))
    return shown
