"""Messages of the commits that a run makes."""

from autoresearch_jax.measurement import Metric
from autoresearch_jax.search.records import ExperimentRow, Verdict

SCORE_DECIMALS = 6


def one_line(text: str) -> str:
    """A text that others wrote, as git, SQLite and a terminal take it: neither lines nor control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


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
      num_runs: trials that the score is the mean of.
    """
    trailers = [("Experiment", str(experiment.id)), ("Decision", str(verdict))]
    if score is not None:
        trailers.append((metric.name.replace("_", "-").title(), f"{score:.{SCORE_DECIMALS}f}"))
        trailers.append(("Delta", f"{score - champion_score:+.{SCORE_DECIMALS}f}"))
    trailers.append(("Runs", str(num_runs)))
    if experiment.proposer:
        trailers.append(("Proposer", experiment.proposer))
    subject = one_line(experiment.hypothesis) or f"experiment {experiment.id}"
    footer = "\n".join(f"{name}: {value}" for name, value in trailers)
    return f"{subject}\n\n{one_line(reason)}\n\n{footer}\n"
