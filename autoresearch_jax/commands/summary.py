"""The summary of one trial, as `key: value` lines that keep the original's names, or as JSON."""

import json
from collections.abc import Mapping

from autoresearch_jax.types import (
    ATTENDED_SHARE,
    CLOCK_FAULT,
    SCORE_DECIMALS,
    WALL_SECONDS,
    Measurement,
    Metric,
    Scalar,
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
_ONLY_IF_ANY = (CLOCK_FAULT, "error", "snapshot")  # lines of the text


def summarize(measurement: Measurement, metric: Metric, constants: Mapping[str, object]) -> dict[str, Scalar]:
    """All figures of a trial under the names they are printed with; None where one is missing.

    Args:
      measurement: the trial.
      metric: its metric.
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


def format_summary(summary: Mapping[str, Scalar], metric: Metric, format: str) -> str:
    """The summary as text that `grep "^val_bpb:"` reads, or as one JSON object.

    Figures are rounded as text and in full as JSON. A trial without a score says why, and as text leaves out what it
    did not come to measure.
    """
    if format == "json":
        return json.dumps(summary, indent=1)
    failed = summary[metric.name] is None
    decimals = {metric.name: SCORE_DECIMALS, **{key: places for key, _, _, places in _FIGURES}}
    lines = ["---"]
    for key, value in summary.items():
        if value is None and key != metric.name and (failed or key in _ONLY_IF_ANY):
            continue
        if isinstance(value, float) and key in decimals:
            value = f"{value:.{decimals[key]}f}"
        lines.append(f"{key + ':':<21}{'null' if value is None else value}")
    return "\n".join(lines)
