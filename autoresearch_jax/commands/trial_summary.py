"""What is printed of a trial: its figures as text and JSON, and where a trace of `--profile` goes."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.tasks.lm.config import PROFILE, PROFILED_STEPS
from autoresearch_jax.types import (
    ATTENDED_SHARE,
    CLOCK_FAULT,
    SCORE_DECIMALS,
    WALL_SECONDS,
    Budget,
    Measurement,
    Metric,
    Scalar,
    Status,
)

MEGA = 1e6
MEBIBYTE = 1 << 20
# Key, name in the measurement's metrics, divisor, decimals (a text has no use for the last two). training_seconds, and
# total_seconds to num_params_M, are the original's names and units.
_FIGURES: tuple[tuple[str, str, float, int], ...] = (
    ("training_seconds", "training_seconds", 1, 1),
    ("wall_seconds", WALL_SECONDS, 1, 1),
    ("attended_share", ATTENDED_SHARE, 1, 3),
    ("clock", "clock", 1, 0),
    ("clock_fault", CLOCK_FAULT, 1, 0),
    ("total_seconds", "total_seconds", 1, 1),
    ("peak_vram_mb", "peak_memory_bytes", MEBIBYTE, 1),
    ("mfu_percent", "mfu_percent", 1, 2),
    ("total_tokens_M", "num_tokens", MEGA, 3),
    ("num_steps", "num_steps", 1, 0),
    ("num_params_M", "num_params", MEGA, 3),
    ("val_bpb_original", "val_bpb_original", 1, 6),
    ("unigram_bpb", "unigram_bpb", 1, 6),
    ("train_loss", "train_loss", 1, 4),
    ("tokens_per_second", "tokens_per_second", 1, 0),
    ("prepare_seconds", "prepare_seconds", 1, 2),
    ("startup_seconds", "startup_seconds", 1, 2),
    ("compile_seconds", "compile_seconds", 1, 2),
    ("init_seconds", "init_seconds", 1, 2),
    ("data_wait_seconds", "data_wait_seconds", 1, 3),
    ("snapshot_seconds", "snapshot_seconds", 1, 2),
    ("judge_seconds", "judge_seconds", 1, 2),
    ("compiles_in_budget", "compiles_in_budget", 1, 0),
)
_KNOWN = {name for _, name, _, _ in _FIGURES}
_ONLY_IF_ANY = (CLOCK_FAULT, "error", "snapshot")  # lines of the text


def summarize(measurement: Measurement, metric: Metric, constants: Mapping[str, object]) -> dict[str, Scalar]:
    """All figures of a trial under the names they are printed with; None where one is missing.

    Args:
      constants: of the source that was measured; the original prints its DEPTH.
    """
    summary: dict[str, Scalar] = {metric.name: measurement.value}
    for key, name, divisor, _ in _FIGURES:
        value = measurement.metrics.get(name)
        summary[key] = value / divisor if isinstance(value, int | float) and divisor != 1 else value
    depth = constants.get("DEPTH")
    summary["depth"] = depth if isinstance(depth, int) else None
    summary["sandbox"] = measurement.metrics.get("sandbox")
    summary["seed"] = measurement.seed
    summary["status"] = str(measurement.status)
    summary["error"] = measurement.error
    summary["snapshot"] = None if measurement.snapshot is None else str(measurement.snapshot)
    return summary


def of_command(summary: Mapping[str, Scalar], measurement: Measurement, metric: Metric) -> dict[str, Scalar]:
    """The summary with the evaluator's further numbers, and without what only a language model has."""
    kept = {name: value for name, value in summary.items() if value is not None or name in (metric.name, "error")}
    return kept | {name: value for name, value in measurement.metrics.items() if name not in _KNOWN | kept.keys()}


def format_summary(summary: Mapping[str, Scalar], metric: Metric) -> str:
    """The summary as text that `grep "^val_bpb:"` reads, figures rounded.

    A trial without a score says why, and leaves out what it did not come to measure.
    """
    failed = summary[metric.name] is None
    scores = (metric.name, f"recorded_{metric.name}", "difference")
    decimals = {**dict.fromkeys(scores, SCORE_DECIMALS), **{key: places for key, _, _, places in _FIGURES}}
    lines = ["---"]
    for key, value in summary.items():
        if value is None and key != metric.name and (failed or key in _ONLY_IF_ANY):
            continue
        if isinstance(value, float) and key in decimals:
            value = f"{value:.{decimals[key]}f}"
        lines.append(f"{key + ':':<21}{'null' if value is None else value}")
    return "\n".join(lines)


def check_profile(folder: Path, budget: Budget, *, tensorboard: bool) -> None:
    """Refuses a trace that could not be made or kept, before anything is spent; makes the folder.

    Raises:
      UsageError: the budget is too short, or the score is wanted elsewhere.
      UserError: the folder cannot be written to.
    """
    if tensorboard:
        raise UsageError("--profile: such a trial is not compared with others: leave out --tensorboard")
    if budget.steps is not None and budget.steps < PROFILED_STEPS:
        raise UsageError(f"--profile: traces {PROFILED_STEPS} steps, and --budget_steps={budget.steps} has fewer")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--profile={folder}: cannot be written to: {error.strerror}: name another folder") from error


def keep_profile(trace: Path, folder: Path) -> str | None:
    """Moves the files of a trace, which a trial left in its log folder; returns where they are, None without any.

    Raises:
      UserError: the disk is full or gone.
    """
    kept = None
    for path in sorted(trace.glob("plugins/profile/*/*")):
        if path.is_file() and not path.is_symlink():
            place = folder / path.relative_to(trace)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, place)
            except OSError as error:
                raise UserError(f"--profile={folder}: {error.strerror}: the trace is in {path.parent}") from error
            kept = str(place.parent)
    return kept


def about_profile(measurement: Measurement, place: Scalar) -> str:
    """What one has to know of a trial whose trace is at a place, None if there is none; one line."""
    num_steps = measurement.metrics.get(PROFILE)
    if place is None:
        if num_steps == 0 and measurement.status is Status.OK:
            return "no trace: no step began in the second half of the budget: give a longer one"
        return f"no trace: the trial ended before the middle of its budget ({measurement.status})"
    score = "the score is not comparable with others, and not recorded"
    if num_steps != PROFILED_STEPS:
        return f"training ended after {num_steps} of {PROFILED_STEPS} steps: a longer budget has all of them; {score}"
    return score
