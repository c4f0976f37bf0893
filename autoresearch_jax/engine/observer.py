"""Who is told what the loop does."""

from collections.abc import Mapping
from typing import Protocol

from autoresearch_jax.engine.records import ExperimentRow, TrialRow
from autoresearch_jax.types import Scalar


class Observer(Protocol):
    """Who is told what the loop does."""

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        ...

    def begins(self, experiment: ExperimentRow) -> None:
        """An experiment is about to be prepared and measured."""
        ...

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        """A trial is about to begin.

        Args:
          experiment: the one in question.
          trial: of that experiment, or of its champion.
          number: how many trials that one has with this.
        """
        ...

    def progress(self, report: Mapping[str, Scalar]) -> None:
        """How far the current trial is."""
        ...

    def ends(self, experiment: ExperimentRow) -> None:
        """An experiment is over."""
        ...
