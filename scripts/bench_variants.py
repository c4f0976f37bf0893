"""Compares training files and constants at one budget; called by bench_variants.sh.

A variant is FILE, NAME=VALUE,... (constants of train_lib.py), or both as FILE:NAME=VALUE,... Each seed is a round in
which every variant has its trial in turn, so a round's variants see the same machine. Beside other work only
differences within a round count.

The last lines are `key: value`, of each variant, its name with underscores for what is no letter or digit:
  val_bpb_VARIANT              mean of the seeds
  gain_percent_VARIANT         by how much that is lower than the first variant's, in percent of the first's
  gain_error_VARIANT           standard error of that, from the rounds' differences; none with one seed
  tokens_per_second_VARIANT    mean of the seeds
and best_variant, the one of the lowest mean.
"""

import argparse
import math
import os
import platform
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench_trial import trial


def flags_of(variant: str) -> list[str]:
    """Flags of `autoresearch trial`."""
    file, colon, constants = variant.partition(":")
    if not colon and "=" in file:
        file, constants = "train_lib.py", file
    return [f"--editable={file}", *(f"--set={constant}" for constant in constants.split(",") if constant)]


def figures(scores: dict[str, list[float]], speeds: dict[str, list[float]]) -> dict[str, str]:
    """The last lines."""
    found: dict[str, str] = {}
    means = {variant: statistics.fmean(values) for variant, values in scores.items()}
    first = next(iter(scores))
    for variant, values in scores.items():
        key = key_of(variant)
        gains = [100 * (ours - theirs) / means[first] for ours, theirs in zip(scores[first], values, strict=True)]
        error = f"{statistics.stdev(gains) / math.sqrt(len(gains)):.2f}" if len(gains) > 1 else "none"
        found |= {
            f"val_bpb_{key}": f"{means[variant]:.4f}",
            f"gain_percent_{key}": f"{statistics.fmean(gains):.2f}",
            f"gain_error_{key}": error,
            f"tokens_per_second_{key}": f"{statistics.fmean(speeds[variant]):.0f}",
        }
    return {**found, "best_variant": key_of(min(means, key=lambda variant: means[variant]))}


def key_of(variant: str) -> str:
    return re.sub(r"\W+", "_", Path(variant).name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="VARIANT")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of training")
    parser.add_argument("--seeds", type=int, default=2, help="rounds, each with its own seed")
    options = parser.parse_args()
    if len(set(map(key_of, options.variants))) < len(options.variants):
        parser.error("two variants have the same name")
    scores: dict[str, list[float]] = {variant: [] for variant in options.variants}
    speeds: dict[str, list[float]] = {variant: [] for variant in options.variants}
    width = max(map(len, options.variants))
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'seed':>4}  {'variant':{width}}{'steps':>7}{'tokens/s':>10}{'val_bpb':>9}")
        for seed in range(options.seeds):
            for variant in options.variants:
                budget = f"--budget_seconds={options.budget}", f"--seed={seed}"
                summary: dict[str, Any] = trial(Path(scratch) / "runs", *budget, *flags_of(variant))[0]
                scores[variant].append(summary["val_bpb"])
                speeds[variant].append(summary["tokens_per_second"])
                measured = f"{summary['num_steps']:7d}{summary['tokens_per_second']:10.0f}{summary['val_bpb']:9.4f}"
                print(f"{seed:4d}  {variant:{width}}{measured}", flush=True)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key, value in figures(scores, speeds).items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
