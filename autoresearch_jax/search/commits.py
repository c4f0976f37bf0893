"""Messages of the commits that a run makes."""

from autoresearch_jax.measurement import SCORE_DECIMALS, Metric
from autoresearch_jax.search.records import ExperimentRow, Verdict
from autoresearch_jax.untrusted import clean_line


def commit_message(
    experiment: ExperimentRow,
    verdict: Verdict,
    reason: str,
    metric: Metric,
    score: float | None,
    champion_score: float,
    num_runs: int,
) -> str:
    """The hypothesis, the reason, and trailers that `git log --format=%(trailers)` reads.

    Args:
      experiment: what is committed.
      verdict: what became of it.
      reason: why, in one line.
      metric: names the trailer of the score: val_bpb becomes Val-Bpb.
      score: None where there is none, and then no trailer says one.
      champion_score: of the champion it was compared with; Delta is the difference from it.
      num_runs: trials that were run for it; none for a duplicate, whose score is its twin's.
    """
    trailers = [("Experiment", str(experiment.id)), ("Decision", str(verdict))]
    if score is not None:
        trailers.append((metric.name.replace("_", "-").title(), f"{score:.{SCORE_DECIMALS}f}"))
        trailers.append(("Delta", f"{score - champion_score:+.{SCORE_DECIMALS}f}"))
    trailers.append(("Runs", str(num_runs)))
    if experiment.proposer:
        trailers.append(("Proposer", experiment.proposer))
    subject = clean_line(experiment.hypothesis) or f"experiment {experiment.id}"
    footer = "\n".join(f"{name}: {value}" for name, value in trailers)
    return f"{subject}\n\n{clean_line(reason)}\n\n{footer}\n"
