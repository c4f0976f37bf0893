"""Hints for an agent: what the constants proposer found out about each constant of the table, a line each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from autoresearch_jax.proposers.base import Constants, PastExperiment, moves_constants_alone
from autoresearch_jax.proposers.space import Choices, Constant, Value, format_value, same
from autoresearch_jax.sanitize import quoted
from autoresearch_jax.types import SCORE_DECIMALS, Metric, Status

MOST_MOVES = 3  # constants moved at once beyond which a gain says little of each
SHOWN = 8  # tries that are told one by one
MAX_VALUE_CHARACTERS = 40


@dataclass(frozen=True)
class _Try:
    """A value that a constant was moved to."""

    experiment: int  # when
    value: Value  # where to
    beside: tuple[str, ...]  # other constants that were moved at once
    gain: Decimal | None  # over the champion of that time, 0 within the noise; None where there is no score
    status: Status  # how it ended

    def __str__(self) -> str:
        if self.gain is None:
            came = f"ended in {self.status}"
        elif self.gain == 0:
            came = "no different"
        else:
            came = f"{'better' if self.gain > 0 else 'worse'} by {abs(self.gain):f}"
        return f"{_shown(self.value)} {came}" + (f" (with {', '.join(self.beside)})" if self.beside else "")


def hint_lines(
    space: Sequence[Constant],
    history: Sequence[PastExperiment],
    metric: Metric,
    champion_constants: Constants,
    noise_floor: float | None,
) -> tuple[str, ...]:
    """A line for each constant of the table, the one whose moves mattered most first.

    It says where the constant stands, how often it was moved and how that came out against the champion of that time.
    Only the optimizer's proposals that moved a few constants count: in others the cause of a difference is not known.
    """
    tries = _tries(space, history, metric, noise_floor)
    order = sorted(space, key=lambda constant: -_importance(tries[constant.name]))  # stable: equals as in the table
    return tuple(
        f"{constant.name} ({constant.values}): now {_shown(champion_constants.get(constant.name))}; "
        f"{_summary(constant, tries[constant.name])}"
        for constant in order
    )


def _tries(
    space: Sequence[Constant], history: Sequence[PastExperiment], metric: Metric, noise_floor: float | None
) -> Mapping[str, list[_Try]]:
    """What each constant was moved to, the oldest first; values outside of today's table are left out."""
    tries: dict[str, list[_Try]] = {constant.name: [] for constant in space}
    champion: PastExperiment | None = None
    for outcome in history:
        if champion is not None and moves_constants_alone(outcome) and outcome.status is not Status.DUPLICATE:
            moved = list(_moved(space, champion.constants, outcome.constants))
            gain = _gain(outcome, champion, metric, noise_floor)
            for constant, value in moved if len(moved) <= MOST_MOVES else ():
                beside = tuple(other.name for other, _ in moved if other is not constant)
                tries[constant.name].append(_Try(outcome.experiment, value, beside, gain, outcome.status))
        if outcome.kept and outcome.score is not None:
            champion = outcome
    return tries


def _moved(space: Sequence[Constant], before: Constants, after: Constants) -> Iterator[tuple[Constant, Value]]:
    for constant in space:
        value = after.get(constant.name)
        if (
            not same(value, before.get(constant.name))
            and isinstance(value, int | float | str)
            and constant.values.contains(value)
        ):
            yield constant, value


def _gain(
    outcome: PastExperiment, champion: PastExperiment, metric: Metric, noise_floor: float | None
) -> Decimal | None:
    """How much better it scored; no digit more than the two scores have."""
    if outcome.score is None or champion.score is None:
        return None
    gain = _decimal(champion.score) - _decimal(outcome.score)
    if metric.direction != "minimize":
        gain = -gain
    return gain if noise_floor is None or abs(gain) > _decimal(noise_floor) else Decimal(0)


def _decimal(number: float) -> Decimal:
    """As it is printed, so that 0.3 - 0.1 is 0.2."""
    return Decimal(repr(round(number, SCORE_DECIMALS)))


def _importance(tries: Sequence[_Try]) -> float:
    """Mean size of a gain or loss, shared among what was moved at once, as if one more move had made no difference."""
    scored = [(attempt, attempt.gain) for attempt in tries if attempt.gain is not None]
    return sum(float(abs(gain)) / (1 + len(attempt.beside)) for attempt, gain in scored) / (1 + len(scored))


def _summary(constant: Constant, tries: Sequence[_Try]) -> str:
    """The tries that say most: moves of the constant alone before others, the newest before the older."""
    if not tries:
        return "not tried yet"
    told = sorted(tries, key=lambda attempt: (len(attempt.beside), -attempt.experiment))[:SHOWN]
    if not isinstance(constant.values, Choices):
        told.sort(key=lambda attempt: float(attempt.value))
    return f"{len(tries)} tried; {', '.join(map(str, told))}" + (", ..." if len(told) < len(tries) else "")


def _shown(value: object) -> str:
    """A value; strings are quoted, since the champion may have any."""
    return quoted(value, MAX_VALUE_CHARACTERS) if isinstance(value, str) else format_value(value)
