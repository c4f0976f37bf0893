"""Measures what `autoresearch trial` promises of its budget; called by bench_trial.sh.

Each figure is the last lines' `key: value`:
  budget_overrun_steps      largest overrun of the budget among ten trials, in units of that trial's longest step
  updates_outside_budget    steps that started after the budget, over the ten trials
  overhead_cold_seconds     wall time of a trial minus that of its training, with an empty compile cache
  overhead_warm_seconds     the same with the cache that trial filled
  allocator_speedup         tokens per second with glibc's allocator as the harness sets it (huge pages, and memory
                            that is kept) over those with its own settings: median of pairs run in turn
  equal_trials_agree        1 if two trials with one seed and --budget_steps=50 have the same val_bpb to the last digit
  val_bpb, unigram_bpb, ratio_to_unigram    after 60 s
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from autoresearch_jax.tasks.lm.device import GLIBC_TUNABLES

FLAGS = "--flagfile=configs/cpu.flags"


def trial(run_dir: Path, *flags: str, **variables: str) -> tuple[dict[str, Any], float]:
    """The summary of one trial, and its wall time in seconds from the call to the prompt."""
    command = ["autoresearch", "trial", FLAGS, "--format=json", f"--run_dir={run_dir}", *flags]
    start = time.monotonic()
    environment = {**os.environ, **variables}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    seconds = time.monotonic() - start
    if not done.stdout:
        sys.exit(f"bench_trial: {' '.join(command)}: exit status {done.returncode}")
    summary = json.loads(done.stdout)
    if summary["status"] != "ok":
        sys.exit(f"bench_trial: {' '.join(command)}: {summary['error']}")
    return summary, seconds


def step_seconds(summary: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Start and duration of each step, from the trial's loss curve: a step starts when the one before it ends."""
    snapshot = Path(summary["snapshot"])
    curve = snapshot.parent.parent / "logs" / snapshot.name / "loss.csv"
    with curve.open() as file:
        ends = [float(row["elapsed_seconds"]) for row in csv.DictReader(file)]
    starts = [0.0, *ends[:-1]]
    return starts, [end - start for start, end in zip(starts, ends, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    budget, trials, long_budget = (2.0, 2, 5.0) if quick else (10.0, 10, 60.0)
    figures: dict[str, float | int] = {}

    with tempfile.TemporaryDirectory() as scratch:
        run_dir = Path(scratch) / "runs"
        cache = f"--compile_cache={Path(scratch) / 'cache'}"
        cold, cold_wall = trial(run_dir, f"--budget_seconds={budget}", cache)
        warm, warm_wall = trial(run_dir, f"--budget_seconds={budget}", cache)
        print(
            "cold trial, seconds: " + ", ".join(f"{k[:-8]} {v:.2f}" for k, v in cold.items() if k.endswith("_seconds"))
        )

        print(f"{'training_seconds':>17}{'overrun':>9}{'longest step':>14}{'steps':>7}")
        overruns, late = [], 0
        for seed in range(trials):
            summary, _ = trial(run_dir, f"--budget_seconds={budget}", f"--seed={seed}", cache)
            starts, durations = step_seconds(summary)
            if len(starts) != summary["num_steps"]:
                sys.exit(f"bench_trial: {summary['num_steps']} steps made, {len(starts)} recorded")
            overrun = summary["training_seconds"] - budget
            overruns.append(overrun / max(durations))
            late += sum(start >= budget for start in starts)
            print(f"{summary['training_seconds']:17.3f}{overrun:9.3f}{max(durations):14.3f}{len(starts):7d}")

        speedups = []
        for pair in range(1 if quick else 5):
            ours, plain = (
                trial(run_dir, f"--budget_seconds={budget}", f"--seed={pair}", cache, GLIBC_TUNABLES=tunable)[0]
                for tunable in (GLIBC_TUNABLES, "glibc.malloc.hugetlb=0")
            )
            speedups.append(ours["tokens_per_second"] / plain["tokens_per_second"])
        print("allocator, speedup of each pair: " + ", ".join(f"{speedup:.2f}" for speedup in speedups))

        steps = 5 if quick else 50
        equal = [trial(run_dir, f"--budget_steps={steps}", "--seed=7", cache)[0]["val_bpb"] for _ in range(2)]
        print(f"equal trials: {equal[0]!r} {equal[1]!r}")
        long, _ = trial(run_dir, f"--budget_seconds={long_budget}", cache)

    figures["budget_overrun_steps"] = round(max(overruns), 3)
    figures["updates_outside_budget"] = late
    figures["overhead_cold_seconds"] = round(cold_wall - cold["wall_seconds"], 2)
    figures["overhead_warm_seconds"] = round(warm_wall - warm["wall_seconds"], 2)
    figures["equal_trials_agree"] = int(equal[0] == equal[1])
    figures["allocator_speedup"] = round(statistics.median(speedups), 3)
    figures["tokens_per_second"] = round(long["tokens_per_second"])
    figures["val_bpb"] = round(long["val_bpb"], 4)
    figures["unigram_bpb"] = round(long["unigram_bpb"], 4)
    figures["ratio_to_unigram"] = round(long["val_bpb"] / long["unigram_bpb"], 4)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key, value in figures.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
