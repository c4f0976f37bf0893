"""What `autoresearch run` shows while it works."""

import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack

from autoresearch_jax.commands.progress import TrialProgress
from autoresearch_jax.measurement import Scalar
from autoresearch_jax.report.tables import format_experiment
from autoresearch_jax.search.records import ExperimentRow, Kind, TrialRow, Verdict


def print_notice(text: str) -> None:
    """Prints what the user should know, on standard error."""
    print(f"autoresearch run: {text}", file=sys.stderr, flush=True)


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
            self._progress(report)

    def ends(self, experiment: ExperimentRow) -> None:
        """Prints what came of an experiment."""
        self.close()
        print(format_experiment(experiment), flush=True)
        if experiment.kind is Kind.BASELINE and experiment.decision is Verdict.KEEP:
            print(f"      {experiment.reason}", flush=True)

    def close(self) -> None:
        """Takes the live line away."""
        self._stack.close()
