"""What `autoresearch run` shows while it works."""

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TextIO

from autoresearch_jax.commands.progress import TrialProgress
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.records import ExperimentRow, Kind, TrialRow
from autoresearch_jax.report.tables import format_experiment
from autoresearch_jax.types import Scalar


def say(text: str, stream: TextIO) -> None:
    """Prints a line; where nobody can read it any more, as when the terminal is gone, nothing is said from then on."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def print_notice(text: str) -> None:
    """Prints what the user should know, on standard error."""
    say(f"autoresearch run: {text}", sys.stderr)


class ConsoleObserver:
    """Prints a line an experiment, and shows how far the current one is below."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._progress: TrialProgress | None = None

    def notice(self, text: str) -> None:
        """Prints what the user should know, on standard error; in whatever thread."""
        if threading.current_thread() is threading.main_thread():
            self.close()
        print_notice(text)

    def begins(self, experiment: ExperimentRow) -> None:
        """Names the experiment in the live line."""
        self._show(experiment, "")
        self.progress({"phase": "prepare"})

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        """Names the trial in the live line."""
        whose = "" if trial.experiment == experiment.id else "champion's "
        self._show(experiment, f"{whose}run {number}  ")

    def _show(self, experiment: ExperimentRow, words: str) -> None:
        self.close()
        prefix = f"{experiment.id:>4}  {experiment.hypothesis}  {words}"
        self._progress = self._stack.enter_context(TrialProgress(prefix))

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """Shows how far the trial is."""
        if self._progress is not None:
            with suppress(OSError):  # the terminal is gone
                self._progress(report)

    def ends(self, experiment: ExperimentRow) -> None:
        """Prints what came of an experiment."""
        self.close()
        say(format_experiment(experiment), sys.stdout)
        if experiment.kind is Kind.BASELINE and experiment.decision is Action.KEEP:
            say(f"      {experiment.reason}", sys.stdout)

    def close(self) -> None:
        """Takes the live line away."""
        with suppress(OSError):
            self._stack.close()
