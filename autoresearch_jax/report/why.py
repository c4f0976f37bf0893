"""Why an experiment was kept or discarded: its runs, what the rule said after each, and the reason in one line."""

from typing import Any, TextIO

from autoresearch_jax.report.tables import format_lines, format_table
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.records import Purpose, TrialRow
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
    trials = ledger.trials(row.id)
    return {
        "experiment": row.id,
        "hypothesis": row.hypothesis,
        "outcome": outcome(row, at_work=at_work),
        "score": row.score,
        "reason": row.reason,
        "trials": [_trial(trial, trial in _left_out(ledger, trials), at_work) for trial in trials],
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


def _left_out(ledger: Ledger, trials: list[TrialRow]) -> list[TrialRow]:
    """Those that do not count because they ran at another speed than the others."""
    groups = [
        [trial for trial in trials if trial.purpose is purpose and trial.value is not None] for purpose in Purpose
    ]
    return [trial for group in groups for trial in group if trial not in ledger.counted(group)]


def _trial(trial: TrialRow, is_out: bool, at_work: bool) -> dict[str, Any]:
    open_as = RUNNING if at_work else INTERRUPTED
    return {
        "trial": trial.id,
        "run_as": str(trial.purpose),
        "seed": trial.seed,
        "score": trial.value,
        "steps_per_second": trial.steps_per_second,
        "status": open_as if trial.status is None else "other speed" if is_out else str(trial.status),
        "error": trial.error,
    }


def print_explanation(found: dict[str, Any], stream: TextIO) -> None:
    """Prints what `explain` found."""
    stream.write(format_lines({name: found[name] for name in ("experiment", "hypothesis", "outcome", "score")}) + "\n")
    if found["trials"]:
        shown = [{name: value for name, value in trial.items() if name != "error"} for trial in found["trials"]]
        for row, trial in zip(shown, found["trials"], strict=True):
            if trial["steps_per_second"] is not None:
                row["steps_per_second"] = f"{trial['steps_per_second']:.2f}"
            if trial["error"]:
                row["status"] += f": {trial['error']}"
        stream.write(f"\n{format_table(shown)}\n\n")
    for ruling in found["rulings"]:
        stream.write(f"{ruling['step']}: {ruling['reason']}\n")
    stream.write(format_lines({"reason": found["reason"]}) + "\n")
