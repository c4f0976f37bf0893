"""When the loop ends: the items of program.md's "Stop when" list."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
STOP_EXAMPLES = (
    '"100 experiments", "8 hours", "90 minutes", "20 dollars", "no keep in 40 experiments", "val_bpb <= 0.97" (or >=)'
)

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_SIGNED = r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      experiments: proposals that are over, whatever became of them; the baseline is not counted.
      seconds: spent on all experiments, over every process that worked on the run.
      dollars: spent on proposals.
      since_keep: proposals since the last keep that was an improvement; a refactoring is none.
      metric: the metric's name.
      score: the champion's.
    """

    experiments: int
    seconds: float
    dollars: float
    since_keep: int
    metric: str
    score: float


class Stop(Protocol):
    """A condition that ends the loop."""

    def reached(self, progress: Progress) -> str | None:
        """One line that says what was reached; None to go on."""
        ...


@dataclass(frozen=True)
class Limit:
    """Ends the loop once a count reaches its limit.

    Attributes:
      quantity: an attribute of `Progress`.
      limit: in that attribute's unit.
      words: the item as the human wrote it.
    """

    quantity: str
    limit: float
    words: str

    def reached(self, progress: Progress) -> str | None:
        """See `Stop.reached`."""
        return self.words if getattr(progress, self.quantity) >= self.limit else None


@dataclass(frozen=True)
class Target:
    """Ends the loop once the champion is good enough."""

    metric: str
    relation: str
    value: float

    def reached(self, progress: Progress) -> str | None:
        """See `Stop.reached`."""
        score = progress.score
        is_there = score <= self.value if self.relation == "<=" else score >= self.value
        if progress.metric != self.metric or not is_there:
            return None
        return f"{self.metric} {self.relation} {self.value:g}"


def parse_stop(text: str) -> Stop | None:
    """The condition that an item of the list states; None if it states none that we know."""
    words = " ".join(text.split()).rstrip(".")
    for pattern, make in _FORMS.items():
        match = re.fullmatch(pattern, words, re.IGNORECASE)
        if match:
            return make(match, words)
    return None


def experiments_limit(count: int) -> Stop:
    """Ends the loop after `count` experiments."""
    return Limit("experiments", count, f"{count} experiments")


_FORMS: Mapping[str, Callable[[re.Match[str], str], Stop]] = {
    r"(\d+) experiments?": lambda m, words: Limit("experiments", int(m[1]), words),
    rf"{_NUMBER} (second|minute|hour)s?": lambda m, words: Limit("seconds", float(m[1]) * SECONDS[m[2].lower()], words),
    rf"{_NUMBER} dollars?": lambda m, words: Limit("dollars", float(m[1]), words),
    r"no keep in (\d+) experiments?": lambda m, words: Limit("since_keep", int(m[1]), words),
    rf"(\w+) (<=|>=) {_SIGNED}": lambda m, words: Target(m[1], m[2], float(m[3])),
}
