"""What `autoresearch run` shows: a line an experiment; below, on a terminal, a live block; and live.json."""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from autoresearch_jax.commands.console import PLAIN_TERMINALS, LiveLine, PatientTerminal, say
from autoresearch_jax.commands.live_block import LiveBlock
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import LiveWriter, Running, Waiting
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.tables import format_experiment
from autoresearch_jax.types import Metric, Scalar


class RunObserver:
    """Prints a line an experiment and each notice, shows what the run is at, and keeps live.json up to date."""

    def __init__(
        self, folder: RunFolder, ledger: Ledger, metric: Metric, command: str = "run", stream: TextIO | None = None
    ) -> None:
        """Shows nothing yet; the ledger is the run's."""
        self._command = command
        self._stream = sys.stdout if stream is None else stream
        self._file = LiveWriter(folder)
        self._screen: ExperimentLine | LiveBlock = ExperimentLine(lambda: self._file.running)
        if sys.stderr.isatty() and os.environ.get("TERM", "") not in PLAIN_TERMINALS:
            with suppress(OSError):  # such as the terminal of another user, after `su`
                self._screen = LiveBlock(PatientTerminal(sys.stderr), ledger, metric, lambda: self._file.running)

    def notice(self, text: str) -> None:
        """Prints what the user should know, on standard error; in any thread."""
        self._screen.say([f"autoresearch {self._command}: {text}"], sys.stderr)
        self._file.says(text)

    def begins(self, experiment: ExperimentRow) -> None:
        """Shows what is prepared."""
        self._file.begins(experiment)
        self._screen.begins()
        self._screen.progress()

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        """Shows the trial that begins."""
        is_candidate = trial.experiment == experiment.id and experiment.is_open
        run = f"run {number}" if is_candidate else f"champion's run {number}"
        self._file.measures(experiment, trial.id, run)
        self._screen.begins()

    def progress(self, trial: int, report: Mapping[str, Scalar]) -> None:
        """Shows how far the trial is."""
        self._file.progress(trial, report)
        self._screen.progress()

    def measured(self, trial: TrialRow) -> None:
        """Shows the trial no more; the experiment's line has the result."""
        self._file.measured(trial.id)

    def ends(self, experiment: ExperimentRow) -> None:
        """Prints the result of an experiment."""
        lines = [format_experiment(experiment)]
        if experiment.kind is Kind.BASELINE and experiment.decision is Action.KEEP:
            lines.append(f"      {experiment.reason}")
        self._file.ends(experiment.id)
        self._screen.ends()
        self._screen.say(lines, self._stream)
        for line in lines:
            self._file.says(line)

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
        self._file.clear()


class ExperimentLine:
    """The plain line about the oldest trial, now and then; what is waited for is a notice, and need not be told again.

    A trial that begins while none runs begins a line of its own.
    """

    def __init__(self, running: Callable[[], Sequence[Running]]) -> None:
        """Shows nothing yet; `running` is what runs now, the oldest first."""
        self._running = running
        self._line = LiveLine()

    def begins(self) -> None:
        """Names the experiment, or the trial, in the line."""
        if len(running := self._running()) == 1:
            self._line.show(_prefix(running))

    def progress(self) -> None:
        """Shows how far the trial is."""
        if running := self._running():
            self._line.prefix = _prefix(running)
            self._line.progress(running[0].report)

    def ends(self) -> None:
        """Takes the line away until the next report."""
        self._line.close()

    def waits(self, waiting: Waiting | None) -> None:
        """Takes the line away."""
        self._line.close()

    def service(self, down: Waiting | None) -> None:
        """Shows nothing: a notice tells it."""

    def say(self, lines: Sequence[str], stream: TextIO) -> None:
        """Prints lines in place of the line about the trial, which only the main thread takes away."""
        if threading.current_thread() is threading.main_thread():
            self._line.close()
        for line in lines:
            say(line, stream)

    def close(self) -> None:
        """Takes the line away."""
        self._line.close()


def _prefix(running: Sequence[Running]) -> str:
    """Names the oldest of what runs, and how many there are besides."""
    first, more = running[0], len(running) - 1
    words = [f"{first.experiment:>4}", first.hypothesis, first.run, f"and {more} more" if more else ""]
    return "".join(f"{word}  " for word in words if word)
