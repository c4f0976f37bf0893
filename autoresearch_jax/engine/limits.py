"""Items of program.md's "Stop when": what they mean, and how people write them."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
STOP_EXAMPLES = (
    '"100 experiments", "8 hours", "90 minutes", "20 dollars", "no keep in 40 experiments", "loss <= 0.97" (or >=)'
)
ENDLESS = "nothing: the run goes on until you stop it, as with Ctrl-C"

_SLACK = 1e-9  # of a quotient of two numbers that are equal but for rounding


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    experiments: int  # proposals that are over, kept or not; the baseline is not counted
    seconds: float  # spent on all experiments, over every process that worked on the run
    dollars: float  # spent on proposals
    since_keep: int  # proposals since the last keep that was an improvement; a refactoring is none
    metric: str  # the metric's name
    score: float  # the champion's


@dataclass(frozen=True)
class Limit:
    """Ends the loop once a quantity, an attribute of `Progress`, reaches its limit; `words` are the human's."""

    quantity: str
    limit: float
    words: str

    def reached(self, progress: Progress) -> str | None:
        """One line that says what was reached; None to go on."""
        return self.words if getattr(progress, self.quantity) >= self.limit else None


@dataclass(frozen=True)
class Target:
    """Ends the loop once the champion is good enough."""

    metric: str
    relation: str
    value: float

    @property
    def words(self) -> str:
        """The item as a line."""
        return f"{self.metric} {self.relation} {self.value:g}"

    def reached(self, progress: Progress) -> str | None:
        """One line that says what was reached; None to go on."""
        score = progress.score
        is_there = score <= self.value if self.relation == "<=" else score >= self.value
        return self.words if progress.metric == self.metric and is_there else None


Stop = Limit | Target


def with_experiments(stops: Sequence[Stop], experiments: int | None) -> list[Stop]:
    """A stopping list in which --experiments, if it is given, replaces what the page says of experiments."""
    if experiments is None:
        return list(stops)
    others = [stop for stop in stops if not (isinstance(stop, Limit) and stop.quantity == "experiments")]
    return [*others, Limit("experiments", experiments, f"{experiments} experiments")]


def ends_in_words(stops: Sequence[Stop]) -> str:
    """What ends a run, in one line."""
    return "; ".join(stop.words for stop in stops) or ENDLESS


def limits_left(stops: Sequence[Stop], progress: Progress) -> tuple[str, ...]:
    """What is left until each item of the stopping list, in words."""
    return tuple(_left(stops, progress))


def _left(stops: Sequence[Stop], progress: Progress) -> Iterator[str]:
    for stop in stops:
        if isinstance(stop, Target):
            yield f"the search ends at {stop.words}"
            continue
        left = max(0.0, stop.limit - getattr(progress, stop.quantity))
        match stop.quantity:
            case "seconds":
                unit = next((unit for unit in ("hour", "minute") if left >= SECONDS[unit]), "second")
                yield f"{left / SECONDS[unit]:.1f} {unit}s"
            case "since_keep":
                yield f"{_count(left)} without a keep end the search"
            case "experiments":
                yield _count(left)
            case quantity:
                yield f"{left:.2f} {quantity}"


def _count(left: float) -> str:
    number = math.ceil(left - _SLACK)
    return f"{number} experiment{'s' if number != 1 else ''}"


def read_stops(lines: Sequence[str]) -> tuple[list[Stop], list[str]]:
    """The conditions that an item or a paragraph states, and the clauses that may state one and are not understood.

    Clauses stand on lines, in sentences, in brackets, or are joined by commas, dashes and "or". They may be wrapped, so
    the lines are read one by one and as one, and what leaves less unclear counts.
    """
    whole = _read_clauses([" ".join(lines)])
    by_line = _read_clauses(lines)
    return by_line if len(by_line[1]) < len(whole[1]) else whole


def _read_clauses(lines: Sequence[str]) -> tuple[list[Stop], list[str]]:
    stops: list[Stop] = []
    unclear: list[str] = []
    for line in lines:
        for part in _BETWEEN_CLAUSES.split(_COMPOUND.sub(_joined, " ".join(line.split()))):
            clause = part.strip(_QUOTES)
            if (stop := _read_clause(clause)) is not None:
                stops.append(stop)
            elif _MAY_LIMIT.search(clause):
                unclear.append(clause)
    return stops, unclear


def _read_clause(clause: str) -> Stop | None:
    """The condition that is all of a clause, but for a label ("Time: 8 hours") and words that do not change it."""
    label, _, rest = clause.partition(":")
    for text in (clause, "" if _MAY_LIMIT.search(label) else rest):
        words = _AROUND.sub("", text.strip(_QUOTES))
        for pattern, make in _FORMS.items():
            if match := re.fullmatch(pattern, words, re.IGNORECASE):
                return make(match, words)
    return None


def _number(text: str) -> float:
    return float(re.sub("[,_]", "", text))


def _seconds(text: str) -> float:
    """A duration such as "8 hours", "1h30m", "1 hour and 30 minutes"."""
    parts = re.findall(rf"({_NUMBER})[\s-]?([a-z])", text, re.IGNORECASE)
    return sum(_number(number) * _BY_LETTER[unit.lower()] for number, unit in parts)


def _joined(match: re.Match[str]) -> str:
    """The first half of "8 hours, 30 minutes", which is one duration, without its comma."""
    larger, smaller = (_BY_LETTER[match[name][0].lower()] for name in ("unit", "next"))
    return f"{match['first']} " if larger > smaller else match[0]


def _target(match: re.Match[str], words: str) -> Target:
    relation = "<=" if match["relation"].lower() in ("<", "<=", "=<", "≤", "below", "under", "at most") else ">="
    return Target(match["metric"], relation, float(match["value"]))


_NUMBER = r"(?:\d{1,3}(?:[,_]\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_COUNT = r"(\d{1,3}(?:[,_]\d{3})+|\d+)"
_SIGNED = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?"
_UNIT = r"(?:d|days?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)(?![a-z])"
_DURATION = rf"{_NUMBER}[\s-]?{_UNIT}"
_BY_LETTER = {name[0]: seconds for name, seconds in SECONDS.items()}
# A duration before a comma and another one
_COMPOUND = re.compile(
    rf"(?P<first>(?<![\w.]){_NUMBER}[\s-]?(?P<unit>{_UNIT})),\s+(?:and\s+)?"
    rf"(?={_NUMBER}[\s-]?(?P<next>{_UNIT})\s*(?:$|[;,.()\[\]|]|or\b))",
    re.IGNORECASE,
)
_GAIN = r"(?:new |further |any )?(?:keeps?|improvements?|gains?|progress)"
_EXPERIMENTS = r"experiments?(?: in a row)?"
_IS = r"(?::|=|<=|>=|≤|≥)"
_RELATION = r"(?P<relation><=|>=|=<|=>|<|>|≤|≥|below|under|above|over|at most|at least)"

_FORMS: Mapping[str, Callable[[re.Match[str], str], Stop]] = {
    rf"{_COUNT} experiments?": lambda m, words: Limit("experiments", _number(m[1]), words),
    rf"(?:(?:max|num)_)?experiments?\s*{_IS}\s*{_COUNT}": lambda m, words: Limit(
        "experiments", _number(m[1]), f"{m[1]} experiments"
    ),
    rf"{_DURATION}(?:(?:\s|,|and)*{_DURATION})*": lambda m, words: Limit("seconds", _seconds(words), words),
    rf"(?:max_)?(day|hour|minute|second)s?\s*{_IS}\s*({_NUMBER})": lambda m, words: Limit(
        "seconds", _number(m[2]) * SECONDS[m[1].lower()], f"{m[2]} {m[1].lower()}s"
    ),
    rf"(?:us)?\$\s?({_NUMBER})": lambda m, words: Limit("dollars", _number(m[1]), words),
    rf"({_NUMBER})\s?(?:\$|(?:us |u\.s\. )?dollars?|usd)": lambda m, words: Limit("dollars", _number(m[1]), words),
    rf"(?:usd\s?|(?:max_)?dollars?\s*{_IS}\s*\$?)({_NUMBER})": lambda m, words: Limit(
        "dollars", _number(m[1]), f"{m[1]} dollars"
    ),
    rf"no {_GAIN} (?:in|for|after|within|over|during) (?:the last |the past )?{_COUNT} {_EXPERIMENTS}": (
        lambda m, words: Limit("since_keep", _number(m[1]), words)
    ),
    rf"{_COUNT} {_EXPERIMENTS} without (?:a |an )?{_GAIN}": lambda m, words: Limit("since_keep", _number(m[1]), words),
    rf"(?P<metric>[a-z]\w*) (?:is |falls |gets |goes |drops |rises )?{_RELATION} ?(?P<value>{_SIGNED})": _target,
}
_BEFORE = (
    r"(?:a )?(?:maximum|total|limit|budget) of|at most|no more than|not more than|up to|(?:there|you|we) (?:are|have)"
    r"|please|stops?|ends?|the|run|loop|search|it|when|once|if|after|at|in|within|for|then|either|max\.?|maximum"
)
_AFTER = (
    r"of (?:work|time|wall[- ]clock time)|at most|or less|in total|in all|max\.?|maximum|total|altogether|are|is"
    r"|were|was|have|has|had|been|be|done|over|finished|completed?|passed|elapsed|run|reached|spent|used|gone|up"
)
# Words around a condition that do not change it
_AROUND = re.compile(rf"^(?:(?:{_BEFORE})\s+)+|(?:\s+(?:{_AFTER}))+$", re.IGNORECASE)
_QUOTES = " \t.:*\"'“”‘’"
_BETWEEN_CLAUSES = re.compile(r"[;()\[\]|]|,\s|\.\s|\s(?:[-–—#]+|//)\s|\bor\b(?! less)", re.IGNORECASE)
# What a clause has that may limit a run
_MAY_LIMIT = re.compile(r"\d|[$€£<>≤≥]|\b(?:experiments?|days?|hours?|minutes?|dollars?|euros?)\b", re.IGNORECASE)
