"""What `autoresearch run` shows: a line an experiment; below, on a terminal, a live block; and live.json."""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from autoresearch_jax.commands.console import (
    PLAIN_TERMINALS,
    LiveLine,
    PatientTerminal,
    say,
    terminal_size,
)
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, plus_minus
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import LiveWriter, Waiting
from autoresearch_jax.engine.recorder import outcome
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import read_state
from autoresearch_jax.report.progress import describe_progress, describe_speed, share_of_budget
from autoresearch_jax.report.tables import format_experiment, style_of
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import ATTENDED_SHARE, Metric, Scalar

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

DRAW_SECONDS = 0.5  # between two states of a block that differ only in how far the trial is
LABEL_COLUMNS = 12
BAR_COLUMNS = 30
LEAST_COLUMNS = 60  # of a terminal that has room for a bar
OUTCOMES = 5  # of the last experiments


class Screen(Protocol):
    """Where a run shows what it is at."""

    def begins(self, experiment: ExperimentRow, run: str) -> None:
        """An experiment is prepared, or with `run` a trial of it begins."""
        ...

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """How far the trial is."""
        ...

    def ends(self) -> None:
        """Nothing is prepared or measured for now."""
        ...

    def waits(self, waiting: Waiting | None) -> None:
        """What is waited for; None where the run goes on."""
        ...

    def service(self, down: Waiting | None) -> None:
        """A service that the run goes on without; None where it answers; in any thread."""
        ...

    def say(self, lines: Sequence[str], stream: TextIO) -> None:
        """Prints lines that stay; in any thread."""
        ...

    def close(self) -> None:
        """Takes away what should not stay."""
        ...


class RunObserver:
    """Prints a line an experiment and each notice, shows what the run is at, and keeps live.json up to date."""

    def __init__(
        self, folder: RunFolder, ledger: Ledger, metric: Metric, command: str = "run", stream: TextIO | None = None
    ) -> None:
        """Shows nothing yet; the ledger is the run's.

        Args:
          command: that is called, which begins each notice.
          stream: for the lines of experiments; standard output by default.
        """
        self._command = command
        self._stream = sys.stdout if stream is None else stream
        self._file = LiveWriter(folder)
        self._screen: Screen = ExperimentLine()
        if sys.stderr.isatty() and os.environ.get("TERM", "") not in PLAIN_TERMINALS:
            with suppress(OSError):  # such as the terminal of another user, after `su`
                self._screen = LiveBlock(PatientTerminal(sys.stderr), ledger, metric)

    def notice(self, text: str) -> None:
        """Prints what the user should know, on standard error; in any thread."""
        self._screen.say([f"autoresearch {self._command}: {text}"], sys.stderr)
        self._file.says(text)

    def begins(self, experiment: ExperimentRow) -> None:
        """Shows what is prepared."""
        self._file.begins(experiment.id)
        self._screen.begins(experiment, "")
        self.progress(0, {"phase": "prepare"})

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        """Shows the trial that begins."""
        run = f"run {number}" if trial.experiment == experiment.id else f"champion's run {number}"
        self._file.begins(experiment.id, run)
        self._screen.begins(experiment, run)

    def progress(self, trial: int, report: Mapping[str, Scalar]) -> None:
        """Shows how far the trial is."""
        self._file.progress(report)
        self._screen.progress(report)

    def measured(self, trial: TrialRow) -> None:
        """Shows nothing: the experiment's line has the result."""

    def ends(self, experiment: ExperimentRow) -> None:
        """Prints the result of an experiment."""
        lines = [format_experiment(experiment)]
        if experiment.kind is Kind.BASELINE and experiment.decision is Action.KEEP:
            lines.append(f"      {experiment.reason}")
        self._screen.ends()
        self._screen.say(lines, self._stream)
        for line in lines:
            self._file.says(line)
        self._file.ends()

    def waits(self, what: str, since: float, again_at: float) -> None:
        """Shows what is waited for."""
        waiting = Waiting(what, since, again_at)
        self._file.waits(waiting)
        self._screen.waits(waiting)

    def resumes(self) -> None:
        """Nothing is waited for any more."""
        self._file.waits(None)
        self._screen.waits(None)

    def service_down(self, what: str, since: float, again_at: float) -> None:
        """Shows which service does not answer."""
        down = Waiting(what, since, again_at)
        self._file.service(down)
        self._screen.service(down)

    def service_back(self) -> None:
        """Every service answers."""
        self._file.service(None)
        self._screen.service(None)

    def close(self) -> None:
        """Takes the live line or block away."""
        self._screen.close()
        self._file.ends()


class ExperimentLine(LiveLine):
    """The plain line about a trial, now and then; what is waited for is a notice, and need not be told again."""

    def begins(self, experiment: ExperimentRow, run: str) -> None:
        """Names the experiment, or the trial, in the line."""
        self.show(f"{experiment.id:>4}  {experiment.hypothesis}  {run and f'{run}  '}")

    def ends(self) -> None:
        """Takes the line away."""
        self.close()

    def waits(self, waiting: Waiting | None) -> None:
        """Takes the line away."""
        self.close()

    def service(self, down: Waiting | None) -> None:
        """Shows nothing: a notice tells it."""

    def say(self, lines: Sequence[str], stream: TextIO) -> None:
        """Prints lines in place of the line about the trial, which only the main thread takes away."""
        if threading.current_thread() is threading.main_thread():
            self.close()
        for line in lines:
            say(line, stream)


class LiveBlock:
    """A few lines at the bottom of a terminal, drawn when something happens, in any thread; nothing of it stays.

    The thread that reports draws it: a thread for it alone would take a processor from the trial. On a terminal
    that takes nothing it is not drawn, and lines that stay are printed later; one that is gone is written to no more.
    """

    def __init__(self, terminal: PatientTerminal, ledger: Ledger, metric: Metric) -> None:
        """Draws nothing yet; the ledger is read when an experiment begins or ends, in that thread."""
        self._terminal = terminal
        self._ledger = ledger
        self._metric = metric
        self._lock = threading.RLock()
        self._console: Console | None = None
        self._live: Live | None = None
        self._is_off = False
        self._drawn_at = 0.0
        self._experiment: ExperimentRow | None = None
        self._run = ""
        self._report: Mapping[str, Scalar] = {}
        self._waiting: Waiting | None = None
        self._down: Waiting | None = None
        self._champion = ""
        self._last: Sequence[ExperimentRow] = ()

    def begins(self, experiment: ExperimentRow, run: str) -> None:
        """Names what is prepared, or with `run` the trial that begins."""
        self._read_ledger()
        with self._lock:
            self._experiment, self._run, self._report = experiment, run, {"phase": "" if run else "prepare"}
            self._draw()

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """Shows how far the trial is."""
        with self._lock:
            is_new_phase = report.get("phase") != self._report.get("phase")
            self._report = report
            if is_new_phase or time.monotonic() - self._drawn_at >= DRAW_SECONDS:
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
        """Nothing is prepared or measured for now; shown when the block is next drawn."""
        self._read_ledger()
        with self._lock:
            self._experiment = None

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

        shown = [self._subject()]
        if self._waiting is not None:
            shown.append(self._wait("waiting", self._waiting))
        elif self._experiment is not None:
            shown += [self._progress(columns), _line("", "  ".join(describe_speed(self._report)))]
        if self._down is not None:
            shown.append(self._wait("down", self._down))
        if self._champion:
            shown.append(_line("champion", self._champion, "bold"))
        if self._last:
            shown.append(self._outcomes())
        return Group(*shown[: max(1, lines - 2)])  # else its beginning would leave the screen, and stay there

    def _subject(self) -> "RenderableType":
        row = self._experiment
        if row is None:
            return _line("experiment", "none yet: it is being proposed")
        words = [str(row.id), clean_line(row.proposer), clean_line(row.hypothesis)]
        return _line("experiment", "  ".join(word for word in words if word), "bold")

    def _progress(self, columns: int) -> "RenderableType":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        report, share = self._report, share_of_budget(self._report)
        if share is None and isinstance(judged := report.get("share"), int | float):
            share = judged
        phase = clean_line(str(report.get("phase") or ""))
        words = _line("trial", "  ".join(part for part in (self._run, phase) if part), "cyan")
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
