"""What an audit's trials say: gains with intervals, a verdict, the figures that are printed. Pure functions."""

import enum
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import stdev

from autoresearch_jax.decide.noise import item_variance, mean_of
from autoresearch_jax.engine.records import AuditTrial, ExperimentRow
from autoresearch_jax.types import Metric, Scalar, Status

BASELINE = "baseline"
CHAMPION = "champion"
CONFIDENCE = 0.95  # of two-sided intervals: one in twenty does not hold the truth
# Of val's gain that must be left on the holdout. The two are different texts, so an honest gain is a little larger on
# one of them; to call any such difference wear would be wrong nearly always. A gain that lost half of itself is
# another gain.
HONEST_SHARE = 0.5
FEWEST_PAIRS = 2  # a difference that was measured once has no spread
NOT_ENOUGH = (
    "fewer than two seeds gave both a score, further ones included, so nothing can be said: see first_failure before "
    "you ask again"
)

Value = Callable[[AuditTrial], float | None]


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends between which the true one lies with probability `CONFIDENCE`."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 if it is surely above 0, -1 if surely below, 0 if that is open."""
        return (self.low > 0) - (self.high < 0)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE, *, item_error: float = 0.0) -> Interval | None:
    """The interval of the mean of independent values with normal noise; None for fewer than two, which show no noise.

    Equal values give an interval without width, but for `item_error`, the standard error that all values have in common
    because of the choice of test items.
    """
    from scipy.special import ndtri, stdtrit  # takes 0.2 s, which a driver that audits nothing need not wait for

    if len(values) < FEWEST_PAIRS:
        return None
    mean = mean_of(values)
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    spread = 0.0 if min(values) == max(values) else stdev(values)
    margin = math.hypot(quantile * spread / math.sqrt(len(values)), float(ndtri((1 + confidence) / 2)) * item_error)
    return Interval(mean, mean - margin, mean + margin)


on_val: Value = attrgetter("value")
on_holdout: Value = attrgetter("holdout")
Items = Callable[[AuditTrial], str | None]
items_of_val: Items = attrgetter("items")
items_of_holdout: Items = attrgetter("holdout_items")


@dataclass(frozen=True)
class Scores:
    """The trials of an audit: those with a score, by subject and seed, and those that ended without one."""

    trials: Mapping[str, Mapping[int, AuditTrial]]
    failures: Sequence[AuditTrial]

    def mean(self, subject: str, value: Value) -> float | None:
        """The mean of a subject's scores; None if it has none."""
        values = [found for trial in self.trials.get(subject, {}).values() if (found := value(trial)) is not None]
        return mean_of(values) if values else None

    def runs(self, subject: str) -> int:
        """How many trials of a subject have a score."""
        return len(self.trials.get(subject, {}))

    def gains(self, subject: str, over: str, value: Value, metric: Metric) -> dict[int, float]:
        """How much better one subject is than another, for each seed with which both have a score."""
        others = self.trials.get(over, {})
        gains = {}
        for seed, trial in self.trials.get(subject, {}).items():
            one, other = value(trial), value(others[seed]) if seed in others else None
            if one is not None and other is not None:
                gains[seed] = metric.gain(one, over=other)
        return gains

    def item_error(self, subject: str, over: str, items: Items) -> float:
        """Standard error of a gain that is due to the choice of test items; 0 for a task without scores of items."""
        others = self.trials.get(over, {})
        variances = []
        for seed, trial in self.trials.get(subject, {}).items():
            one, other = items(trial), items(others[seed]) if seed in others else None
            if one is not None and other is not None:
                variances.append(item_variance(json.loads(one), json.loads(other)))
        return math.sqrt(mean_of(variances)) if variances else 0.0


def read_scores(trials: Sequence[AuditTrial]) -> Scores:
    """Sorts the trials of one audit; one that was begun and not finished is neither a score nor a failure."""
    scored: dict[str, dict[int, AuditTrial]] = {}
    for trial in trials:
        if trial.value is not None:
            scored.setdefault(trial.subject, {})[trial.seed] = trial
    return Scores(scored, [trial for trial in trials if trial.status not in (None, Status.OK)])


class AuditVerdict(enum.StrEnum):
    """What a reading of the holdout says of the champion's gain."""

    REAL = "real"
    SMALLER = "smaller"
    WORN_OUT = "worn out"
    WORSE = "worse"
    NO_GAIN = "no gain"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Reading:
    """What a reading of the holdout says, in a word and in a sentence.

    The intervals are of the gain on val and on the holdout; None if fewer than two seeds have one.
    """

    val: Interval | None
    holdout: Interval | None
    word: AuditVerdict
    sentence: str


def read_holdout(
    val_gains: Sequence[float], holdout_gains: Sequence[float], val_error: float = 0.0, holdout_error: float = 0.0
) -> Reading:
    """Says whether the champion's gain is real, or the validation set is worn out.

    The two have the gains on the same seeds in the same order, and standard errors due to the choice of test items.
    """
    val, holdout = t_interval(val_gains, item_error=val_error), t_interval(holdout_gains, item_error=holdout_error)
    above = [one - HONEST_SHARE * other for one, other in zip(holdout_gains, val_gains, strict=True)]
    above_half = t_interval(above, item_error=math.hypot(holdout_error, HONEST_SHARE * val_error))
    if val is None or holdout is None or above_half is None:
        return Reading(val, holdout, AuditVerdict.NOT_MEASURED, NOT_ENOUGH)
    word, sentence = _judge(val, holdout, above_half)
    return Reading(val, holdout, word, sentence)


def _judge(val: Interval, holdout: Interval, above_half: Interval) -> tuple[AuditVerdict, str]:
    """The cases; `above_half` is of what the holdout's gain is above `HONEST_SHARE` of val's."""
    if holdout.sign < 0:
        also = ", although val improved: the validation set is worn out" if val.sign > 0 else ""
        return AuditVerdict.WORSE, f"the champion is worse than the baseline on the holdout{also}"
    if holdout.sign > 0:
        if val.sign <= 0:
            return AuditVerdict.REAL, "the champion is better on text that steered nothing; val shows it less clearly"
        share = f"{holdout.mean / val.mean:.0%} of the gain on val"
        if above_half.sign < 0:
            rest = "the rest is wear of val"
            return AuditVerdict.SMALLER, f"the gain is real, but only {share} is left on the holdout: {rest}"
        return AuditVerdict.REAL, f"the gain is real: the holdout, which steered nothing, shows {share}"
    if val.sign > 0:
        if above_half.sign < 0:
            return AuditVerdict.WORN_OUT, "the gain on val does not show on the holdout: the validation set is worn out"
        return AuditVerdict.UNDECIDED, "the holdout shows neither a gain nor that there is none: ask with more --runs"
    if val.sign < 0:
        return AuditVerdict.NO_GAIN, "the champion is worse than the baseline on val, and no better on the holdout"
    hidden = f"; one of up to {holdout.high:.2g} may hide in the noise" if holdout.high > 0 else ""
    return AuditVerdict.NO_GAIN, f"no gain is to be seen, neither on val nor on the holdout{hidden}"


def read_change(gain: Interval | None, kept_for_score: bool) -> str:
    """In a word or two, what a kept change is worth; of what was kept for a shorter text no gain is asked."""
    if gain is None:
        return "not measured"
    if gain.sign == 0:
        return "in doubt" if kept_for_score else "no loss seen"
    return "earns its place" if gain.sign > 0 else "costs"


def read_transfer(gain: Interval | None, where: str) -> tuple[str, str]:
    """In a word and in a sentence, whether the champion's gain holds elsewhere, such as "at DEPTH 8"."""
    if gain is None:
        return "not measured", NOT_ENOUGH
    if gain.sign > 0:
        return "holds", f"the champion is better than the baseline {where}, too"
    if gain.sign < 0:
        return "reversed", f"the champion is worse than the baseline {where}: its gain belongs to the run's own setting"
    return "undecided", f"{where} neither a gain nor a loss is to be seen: ask with more --runs"


@dataclass(frozen=True)
class AuditFindings:
    """What came of an audit: figures and rows by the names they are printed with, None where one is missing.

    `is_measured` is False if scores were wanted and there were not two to compare.
    """

    figures: Mapping[str, Scalar]
    table_name: str
    table: Sequence[Mapping[str, Scalar]]
    is_measured: bool


def holdout_findings(scores: Scores, metric: Metric, reported: float | None) -> AuditFindings:
    """Whether the gain is real, and no smaller than the run reported.

    Only seeds with which all four scores are there count.
    """
    val, holdout = (scores.gains(CHAMPION, BASELINE, value, metric) for value in (on_val, on_holdout))
    errors = (scores.item_error(CHAMPION, BASELINE, items) for items in (items_of_val, items_of_holdout))
    reading = read_holdout([val[seed] for seed in holdout], list(holdout.values()), *errors)
    shrinks = ""
    if reported is not None and reading.val is not None and reading.val.high < reported:
        shrinks = f"; the run reported {reported:.4g}, and on seeds that chose nothing val shows {reading.val.mean:.4g}"
    figures = {
        "pairs": len(holdout),
        "gain_reported": reported,
        **_interval_figures("gain_val", reading.val),
        **_interval_figures("gain_holdout", reading.holdout),
        **_losses(scores),
        "verdict": str(reading.word),
        "in_words": reading.sentence + shrinks,
    }
    table = [{**row, "holdout": scores.mean(name, on_holdout)} for name, row in _contenders(scores, metric).items()]
    return AuditFindings(figures, "subjects", table, reading.holdout is not None)


def transfer_findings(scores: Scores, metric: Metric, where: str) -> AuditFindings:
    """Whether the gain holds at another setting."""
    gains = list(scores.gains(CHAMPION, BASELINE, on_val, metric).values())
    gain = t_interval(gains, item_error=scores.item_error(CHAMPION, BASELINE, items_of_val))
    word, sentence = read_transfer(gain, where)
    figures = {
        "pairs": len(gains),
        **_interval_figures("gain", gain),
        **_losses(scores),
        "verdict": word,
        "in_words": sentence,
    }
    return AuditFindings(figures, "subjects", list(_contenders(scores, metric).values()), gain is not None)


@dataclass(frozen=True)
class Change:
    """A kept change, and the subject under which the champion without it was measured.

    `subject` is None if it was not; then `obstacle` says why in a word or two, and `note` in a line.
    """

    row: ExperimentRow
    subject: str | None
    obstacle: str = ""
    note: str = ""


def ablation_findings(scores: Scores, metric: Metric, changes: Sequence[Change]) -> AuditFindings:
    """What each kept change is worth to the champion of now."""
    table = [_change_row(change, scores, metric) for change in changes]
    compared = [row for row in table if row["gain"] is not None]
    earning = sum(row["verdict"] == "earns its place" for row in compared)
    figures = {
        "changes": len(table),
        "compared": len(compared),
        "earn_their_place": earning,
        f"champion_{metric.name}": scores.mean(CHAMPION, on_val),
        **_losses(scores),
        "in_words": f"{earning} of {len(compared)} changes that could be compared surely earn their place; each is "
        "judged at 95 %, so about one in twenty is judged wrongly",
    }
    is_measured = bool(compared) or all(change.subject is None for change in changes)
    return AuditFindings(figures, "changes", table, is_measured)


def _change_row(change: Change, scores: Scores, metric: Metric) -> dict[str, Scalar]:
    kept_for = _kept_for(change.row)
    gain, verdict, note = None, change.obstacle, change.note
    if change.subject is not None:
        gains = list(scores.gains(CHAMPION, change.subject, on_val, metric).values())
        gain = t_interval(gains, item_error=scores.item_error(CHAMPION, change.subject, items_of_val))
        verdict = read_change(gain, kept_for_score=kept_for == "gain")
        if gain is None:
            note = next((_failure(trial) for trial in scores.failures if trial.subject == change.subject), note)
    return {
        "experiment": change.row.id,
        "kept_for": kept_for,
        **_interval_figures("gain", gain),
        "verdict": verdict,
        "hypothesis": change.row.hypothesis,
        "note": note or None,
    }


def _kept_for(row: ExperimentRow) -> str:
    if row.status is Status.DUPLICATE:
        return "refactoring"  # the same program in a shorter text
    return "simplification" if row.simplification else "gain"


def _contenders(scores: Scores, metric: Metric) -> dict[str, dict[str, Scalar]]:
    return {
        name: {"subject": name, "runs": scores.runs(name), metric.name: scores.mean(name, on_val)}
        for name in (BASELINE, CHAMPION)
    }


def _interval_figures(name: str, interval: Interval | None) -> dict[str, Scalar]:
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _losses(scores: Scores) -> dict[str, Scalar]:
    """Trials that are in no mean, and why the first of them failed."""
    first = _failure(scores.failures[0]) if scores.failures else None
    return {"failed_runs": len(scores.failures), "first_failure": first}


def _failure(trial: AuditTrial) -> str:
    return f"{trial.subject}, seed {trial.seed}: {trial.status}: {trial.error}"
