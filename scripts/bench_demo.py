"""Runs the demo with several seeds beside a busy process, and looks if its champions are better; see bench_demo.sh.

Baseline and champion of each run are trained again on four fresh seeds, each for the median number of steps that its
own trials made in the demo, so that the speed of the machine no longer matters. The last lines are `key: value`:
  demo_minutes               longest run
  demo_minutes_mean
  demo_kept                  runs that kept something
  demo_one_run_experiments   mean share of the experiments that took one run
  demo_champion_gain         mean gain in val_bpb of champions over baselines, trained again; lower scores are better
  demo_champion_gain_above_0 runs in which it is above 0
  demo_champion_gain_least_sigma    the smallest, in standard errors of the difference
  demo_reported_gain         mean gain that the runs reported
"""

import argparse
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from bench_conditions import DEMO, FRESH_SEEDS, burning, demo_options, make_repository, train_again

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.tasks.lm.task import METRIC
from autoresearch_jax.types import Budget

SEEDS = range(FRESH_SEEDS, FRESH_SEEDS + 4)
BURNERS = [(5.0, 5.0)]


@dataclass(frozen=True)
class Result:
    """What one run of the demo gave; gains are positive where the champion is better."""

    minutes: float
    runs_per_experiment: Sequence[int]
    kept: Sequence[str]
    reported_gain: float
    gain: float
    error: float


def run_demo(seed: int, repository: Path, *, alone: bool) -> Result:
    tag, log_path = f"seed-{seed}", repository.with_suffix(f".{seed}.log")
    start = time.monotonic()
    with burning([] if alone else BURNERS), log_path.open("w") as log:
        command = ["autoresearch", "run", DEMO, f"--tag={tag}", f"--seed={seed}"]
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=repository)
    if done.returncode != 0:
        sys.exit(f"bench_demo: seed {seed}: exit status {done.returncode}: {log_path.read_text()}")
    minutes = (time.monotonic() - start) / 60
    run = repository / "runs" / tag
    with closing(Ledger.open_to_read(run / "ledger.db")) as ledger:
        rows = ledger.experiments()
        proposals = [row for row in rows if row.kind is Kind.PROPOSAL]
        kept = [row for row in rows if row.decision is Action.KEEP]
        baseline, champion = kept[0], kept[-1]
        gain, error = 0.0, math.inf
        if champion is not baseline:
            scores = [retrain(ledger, row, run) for row in (baseline, champion)]
            gain = METRIC.gain(statistics.mean(scores[1]), over=statistics.mean(scores[0]))
            error = math.hypot(*(statistics.stdev(values) / math.sqrt(len(values)) for values in scores))
        assert baseline.score is not None
        assert champion.score is not None
        return Result(
            minutes=minutes,
            runs_per_experiment=[len(ledger.trials(row.id)) for row in proposals],
            kept=[row.hypothesis for row in kept[1:]],
            reported_gain=METRIC.gain(champion.score, over=baseline.score),
            gain=gain,
            error=error,
        )


def retrain(ledger: Ledger, row: ExperimentRow, run: Path) -> list[float]:
    """Scores of an experiment's program on fresh seeds, each after as many steps as it made in the run."""
    steps = statistics.median(
        steps for trial in ledger.trials(row.id) if isinstance(steps := trial.metrics.get("num_steps"), int)
    )
    options, _ = demo_options()
    options = replace(options, budget=Budget(steps=round(steps)))
    return train_again(options, ledger.source(row.id), SEEDS, run / "again" / str(row.id))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    results = []
    print("seed  minutes  runs per experiment  reported gain  trained again         kept")
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "demo"
        make_repository(repository)
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            result = run_demo(seed, repository, alone=arguments.alone)
            results.append(result)
            runs = " ".join(map(str, result.runs_per_experiment))
            again = f"{result.gain:+.4f} +- {result.error:.4f}"
            kept = "; ".join(result.kept) or "nothing"
            print(
                f"{seed:4}{result.minutes:9.2f}  {runs:19}{result.reported_gain:15.4f}  {again:20}  {kept}", flush=True
            )
    figures = {
        "demo_minutes": max(result.minutes for result in results),
        "demo_minutes_mean": statistics.mean(result.minutes for result in results),
        "demo_kept": sum(bool(result.kept) for result in results),
        "demo_one_run_experiments": statistics.mean(
            runs == 1 for result in results for runs in result.runs_per_experiment
        ),
        "demo_champion_gain": statistics.mean(result.gain for result in results),
        "demo_champion_gain_above_0": sum(result.gain > 0 for result in results),
        "demo_champion_gain_least_sigma": min(result.gain / result.error for result in results),
        "demo_reported_gain": statistics.mean(result.reported_gain for result in results),
    }
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key, value in figures.items():
        print(f"{key}: {value:.4g}")


if __name__ == "__main__":
    main()
