"""Several observers of one run, of which all but the first may fail without harm to it."""

from collections.abc import Callable, Mapping
from typing import Any

from autoresearch_jax.engine.records import ExperimentRow, TrialRow
from autoresearch_jax.engine.task import Observer
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Scalar


class Expendable:
    """Calls functions until one of them fails; says so once, and calls nothing from then on."""

    def __init__(self, what: str, notice: Callable[[str], None]) -> None:
        """Takes what the functions are for, such as the flag that asked for it."""
        self._what = what
        self._notice = notice
        self._has_failed = False

    def __call__(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function, unless one has failed before."""
        if self._has_failed:
            return
        try:
            function(*arguments)
        except Exception as error:
            self._has_failed = True
            reason = clean_line(f"{type(error).__name__}: {error}")
            self._notice(f"{self._what}: {reason}: nothing more is written there, the rest goes on")


class QuietObserver:
    """An observer that does nothing, for those that have use for some of what it is told."""

    def notice(self, text: str) -> None:
        pass

    def begins(self, experiment: ExperimentRow) -> None:
        pass

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        pass

    def progress(self, trial: int, report: Mapping[str, Scalar]) -> None:
        pass

    def measured(self, trial: TrialRow) -> None:
        pass

    def ends(self, experiment: ExperimentRow) -> None:
        pass

    def waits(self, what: str, since: float, again_at: float) -> None:
        pass

    def resumes(self) -> None:
        pass

    def service_down(self, what: str, since: float, again_at: float) -> None:
        pass

    def service_back(self) -> None:
        pass


class Observers:
    """Tells an observer, and then further ones, see `Expendable`."""

    def __init__(self, first: Observer, further: Mapping[str, Observer]) -> None:
        """Takes the further ones by the names that notices give them."""
        self._first = first
        self._further = [(Expendable(what, first.notice), observer) for what, observer in further.items()]

    def notice(self, text: str) -> None:
        self._tell(lambda observer: observer.notice(text))

    def begins(self, experiment: ExperimentRow) -> None:
        self._tell(lambda observer: observer.begins(experiment))

    def measures(self, experiment: ExperimentRow, trial: TrialRow, number: int) -> None:
        self._tell(lambda observer: observer.measures(experiment, trial, number))

    def progress(self, trial: int, report: Mapping[str, Scalar]) -> None:
        self._tell(lambda observer: observer.progress(trial, report))

    def measured(self, trial: TrialRow) -> None:
        self._tell(lambda observer: observer.measured(trial))

    def ends(self, experiment: ExperimentRow) -> None:
        self._tell(lambda observer: observer.ends(experiment))

    def waits(self, what: str, since: float, again_at: float) -> None:
        self._tell(lambda observer: observer.waits(what, since, again_at))

    def resumes(self) -> None:
        self._tell(lambda observer: observer.resumes())

    def service_down(self, what: str, since: float, again_at: float) -> None:
        self._tell(lambda observer: observer.service_down(what, since, again_at))

    def service_back(self) -> None:
        self._tell(lambda observer: observer.service_back())

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        tell(self._first)
        for attempt, observer in self._further:
            attempt(tell, observer)
