"""What an audit found, as the figures that are stored and printed: pure functions of recorded numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_jax.audit.intervals import Interval, t_interval
from autoresearch_jax.audit.log import AuditTrialRow
from autoresearch_jax.audit.scores import Scores, on_holdout, on_val
from autoresearch_jax.audit.verdicts import read_change, read_holdout, read_transfer
from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.types import Metric, Scalar, Status

BASELINE = "baseline"
CHAMPION = "champion"


@dataclass(frozen=True)
class Findings:
    """What came of an audit.

    Attributes:
      figures: by the names they are printed with; None where one is missing.
      table_name: what the rows are.
      table: rows with the same columns; None where something is missing.
      is_measured: False if scores were wanted and not two were there to compare.
    """

    figures: Mapping[str, Scalar]
    table_name: str
    table: Sequence[Mapping[str, Scalar]]
    is_measured: bool


def holdout_findings(scores: Scores, metric: Metric) -> Findings:
    """Whether the gain is real; only seeds with which all four scores are there count."""
    val, holdout = (scores.gains(CHAMPION, BASELINE, value, metric) for value in (on_val, on_holdout))
    reading = read_holdout([val[seed] for seed in holdout], list(holdout.values()))
    figures = {
        "pairs": len(holdout),
        **_interval_figures("gain_val", reading.val),
        **_interval_figures("gain_holdout", reading.holdout),
        **_losses(scores),
        "verdict": str(reading.word),
        "in_words": reading.sentence,
    }
    table = [{**row, "holdout": scores.mean(name, on_holdout)} for name, row in _contenders(scores, metric).items()]
    return Findings(figures, "subjects", table, reading.holdout is not None)


def transfer_findings(scores: Scores, metric: Metric, where: str) -> Findings:
    """Whether the gain holds at another setting.

    Args:
      scores: measured there.
      metric: theirs.
      where: the setting in words, such as "at DEPTH 8".
    """
    gains = list(scores.gains(CHAMPION, BASELINE, on_val, metric).values())
    gain = t_interval(gains)
    word, sentence = read_transfer(gain, where)
    figures = {
        "pairs": len(gains),
        **_interval_figures("gain", gain),
        **_losses(scores),
        "verdict": word,
        "in_words": sentence,
    }
    return Findings(figures, "subjects", list(_contenders(scores, metric).values()), gain is not None)


@dataclass(frozen=True)
class Change:
    """A kept change, and the champion without it.

    Attributes:
      row: the experiment that made it.
      subject: the name under which the champion without it was measured; None if it was not.
      obstacle: why it was not, in a word or two.
      note: what else is to be said, one line; may be empty.
    """

    row: ExperimentRow
    subject: str | None
    obstacle: str = ""
    note: str = ""


def ablation_findings(scores: Scores, metric: Metric, changes: Sequence[Change]) -> Findings:
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
    return Findings(figures, "changes", table, is_measured)


def _change_row(change: Change, scores: Scores, metric: Metric) -> dict[str, Scalar]:
    kept_for = _kept_for(change.row)
    gain, verdict, note = None, change.obstacle, change.note
    if change.subject is not None:
        gain = t_interval(list(scores.gains(CHAMPION, change.subject, on_val, metric).values()))
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


def _failure(trial: AuditTrialRow) -> str:
    return f"{trial.subject}, seed {trial.seed}: {trial.status}: {trial.error}"
