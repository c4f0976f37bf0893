"""Messages of the commits that a run makes."""

from dataclasses import dataclass

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import plus_minus, shown
from autoresearch_jax.engine.records import ExperimentRow, Verdict
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import SCORE_DECIMALS, Metric


@dataclass(frozen=True)
class Measured:
    """How an experiment ended, as a commit's message tells it.

    Attributes:
      verdict: keep or discard.
      reason: why, in one line.
      score: of a keep the posterior mean and its standard deviation; else the mean of its runs, and an error of 0. None
        where there is none.
      effect: difference of the true scores of it and its parent; None where none was estimated.
      probability: that it is better by more than its price.
      num_runs: trials that were run for it; none for a duplicate, whose score is its twin's.
    """

    verdict: Verdict
    reason: str
    score: Estimate | None
    effect: Estimate | None
    probability: float | None
    num_runs: int


def commit_message(experiment: ExperimentRow, measured: Measured, metric: Metric) -> str:
    """The hypothesis, the reason, and trailers that `git log --format=%(trailers)` reads.

    Args:
      experiment: what is committed.
      measured: what came of it.
      metric: names the trailer of the score: val_bpb becomes Val-Bpb.
    """
    trailers = [("Experiment", str(experiment.id)), ("Decision", str(measured.verdict))]
    if experiment.without:
        trailers.append(("Reverts", ", ".join(map(str, experiment.without))))
    if measured.score is not None:
        trailers.append((metric.name.replace("_", "-").title(), plus_minus(measured.score)))
    if measured.effect is not None:
        sign = "" if measured.effect.mean < 0 else "+"
        trailers.append(("Effect", f"{sign}{plus_minus(measured.effect, SCORE_DECIMALS)}"))
    if measured.probability is not None:
        trailers.append(("Probability", shown(measured.probability)))
    trailers.append(("Runs", str(measured.num_runs)))
    if experiment.proposer:
        trailers.append(("Proposer", experiment.proposer))
    subject = clean_line(experiment.hypothesis) or f"experiment {experiment.id}"
    footer = "\n".join(f"{name}: {value}" for name, value in trailers)
    return f"{subject}\n\n{clean_line(measured.reason)}\n\n{footer}\n"
