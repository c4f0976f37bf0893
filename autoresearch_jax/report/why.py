"""Why an experiment was kept or discarded: its runs, what the rule said after each, and the reason in one line."""

from typing import Any, TextIO

from autoresearch_jax.measurement import ATTENDED_SHARE, USUAL_SHARE
from autoresearch_jax.report.tables import format_lines, format_table
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.records import TrialRow
from autoresearch_jax.search.results import INTERRUPTED, RUNNING, outcome


def explain(ledger: Ledger, number: int, *, at_work: bool) -> dict[str, Any]:
    """All that the ledger has on an experiment's decision.

    Args:
      ledger: the run's.
      number: of the experiment.
      at_work: whether a driver is, so that what is not over is running.

    Raises:
      LedgerError: there is none of that number.
    """
    row = ledger.experiment(number)
    return {
        "experiment": row.id,
        "hypothesis": row.hypothesis,
        "outcome": outcome(row, at_work=at_work),
        "score": row.score,
        "reason": row.reason,
        "trials": [_trial(trial, at_work) for trial in ledger.trials(row.id)],
        "rulings": [
            {
                "step": str(ruling.step),
                "reason": ruling.reason,
                "noise_floor": None if ruling.noise is None else ruling.noise.sigma,
                "seed_correlation": None if ruling.noise is None else ruling.noise.seed_correlation,
            }
            for ruling in ledger.rulings(row.id)
        ],
    }


def _trial(trial: TrialRow, at_work: bool) -> dict[str, Any]:
    return {
        "trial": trial.id,
        "run_as": str(trial.purpose),
        "seed": trial.seed,
        "score": trial.value,
        "status": str(trial.status or (RUNNING if at_work else INTERRUPTED)),
        ATTENDED_SHARE: trial.metrics.get(ATTENDED_SHARE),
        "error": trial.error,
    }


def print_explanation(found: dict[str, Any], stream: TextIO) -> None:
    """Prints what `explain` found."""
    stream.write(format_lines({name: found[name] for name in ("experiment", "hypothesis", "outcome", "score")}) + "\n")
    if found["trials"]:
        apart = (ATTENDED_SHARE, "error")  # shown with the status, where they tell something
        shown = [{name: value for name, value in trial.items() if name not in apart} for trial in found["trials"]]
        for row, trial in zip(shown, found["trials"], strict=True):
            if (share := trial[ATTENDED_SHARE]) is not None and share < USUAL_SHARE:
                row["status"] += f", {share:.0%} attended"
            if trial["error"]:
                row["status"] += f": {trial['error']}"
        stream.write(f"\n{format_table(shown)}\n\n")
    for ruling in found["rulings"]:
        stream.write(f"{ruling['step']}: {ruling['reason']}\n")
    stream.write(format_lines({"reason": found["reason"]}) + "\n")
