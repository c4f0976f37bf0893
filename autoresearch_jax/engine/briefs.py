"""What a proposer is told beside the history: noise floor, what is left, what the champion's runs cost, loss curves."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.run_state import RunState
from autoresearch_jax.engine.stopping import SECONDS, Limit, Progress, Stop, Target
from autoresearch_jax.engine.task import Task
from autoresearch_jax.proposers.base import DEFAULT_CATEGORIES
from autoresearch_jax.types import Scalar

# Of a trial's metrics. Nothing measured on validation text is among them: the score is told to the noise floor only.
FACTS = (
    *("num_steps", "step_flops", "peak_memory_bytes", "state_bytes", "num_params", "batch_tokens", "vocab_size"),
    *("tokens_per_second", "mfu_percent", "training_seconds", "compile_seconds", "train_loss"),
)
LOSS_CURVE = "loss.csv"  # in an experiment's logs, where its task writes one; its last column is the loss
CURVE_POINTS = 10
CURVES = 4  # the champion's, and those of as many less one candidates
LOOKED_AT = 12  # latest experiments whose logs are looked into: a task may write no curves, and runs get long
_SLACK = 1e-9  # of a quotient of two numbers that are equal but for rounding


@dataclass(frozen=True)
class Asking:
    """What of a brief the user chose, see `Brief`."""

    categories: Sequence[str] = DEFAULT_CATEGORIES
    plateau: int | None = None


def noise_floor(state: RunState | None) -> float | None:
    """Sigma to one digit, as proposers see it; None where it is not known."""
    return None if state is None or state.sigma is None else float(f"{state.sigma:.1g}")


def known_facts(task: Task, state: RunState | None) -> dict[str, Scalar]:
    """What a candidate has to work with, the time box of a trial, and what the champion's latest run cost."""
    budget = task.budget
    facts: dict[str, Scalar] = {**task.facts, "budget_seconds": budget.seconds, "budget_steps": budget.steps}
    if state is not None and state.runs:
        facts |= {f"champion's {name}": state.runs[-1].metrics.get(name) for name in FACTS}
    return {name: value for name, value in facts.items() if value is not None}


def limits_left(stops: Sequence[Stop], progress: Progress) -> tuple[str, ...]:
    """What is left until each item of the stopping list, in words."""
    return tuple(_left(stops, progress))


def _left(stops: Sequence[Stop], progress: Progress) -> Iterator[str]:
    for stop in stops:
        if isinstance(stop, Target):
            yield f"the search ends at {stop.metric} {stop.relation} {stop.value:g}"
        elif isinstance(stop, Limit):
            left = max(0.0, stop.limit - getattr(progress, stop.quantity))
            if stop.quantity == "seconds":
                unit = next((unit for unit in ("hour", "minute") if left >= SECONDS[unit]), "second")
                yield f"{left / SECONDS[unit]:.1f} {unit}s"
            elif stop.quantity == "since_keep":
                yield f"{_count(left)} without a keep end the search"
            elif stop.quantity == "experiments":
                yield _count(left)
            else:
                yield f"{left:.2f} {stop.quantity}"


def _count(left: float) -> str:
    number = math.ceil(left - _SLACK)
    return f"{number} experiment{'s' if number != 1 else ''}"


def loss_curves(folder: RunFolder, rows: Sequence[ExperimentRow], champion: int) -> dict[int, list[float]]:
    """Training loss at even steps, of the champion and of the latest candidates that have a curve in their logs.

    Args:
      folder: the run's.
      rows: experiments that are over, the oldest first.
      champion: number of the experiment that measured the champion's program.
    """
    curves = {champion: read_curve(folder.log_dir(champion) / LOSS_CURVE)}
    for row in reversed(rows[-LOOKED_AT:]):
        if sum(map(bool, curves.values())) >= CURVES:
            break
        if row.kind is Kind.PROPOSAL and row.id not in curves:
            curves[row.id] = read_curve(folder.log_dir(row.id) / LOSS_CURVE)
    return {number: curve for number, curve in curves.items() if curve}


def read_curve(path: Path, points: int = CURVE_POINTS) -> list[float]:
    """A few losses of a file, the last among them, evenly spread; none where there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [line for line in file if not line.isspace()][1:]
        if len(lines) > points:
            lines = [lines[round(place * (len(lines) - 1) / (points - 1))] for place in range(points)]
        return [float(row[-1]) for row in csv.reader(lines)]
    except (OSError, ValueError, csv.Error):  # none; or cut off in the midst of a number
        return []
