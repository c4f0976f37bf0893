"""Compares searches of a table of constants at equal numbers of trials; called by bench_search.sh.

Ours is what `--proposer=hybrid` does without an agent; the others are Optuna's TPE, CMA-ES and random sampler with
their defaults. Ten seeds each, paired; ours was tuned on the synthetic problems with seeds from 1000 on, never with
these, and never on the real task. The curve of a search is the best score so far, 1 at the start and 0 at the best that
is known of the problem; the area under it is its mean over the trials after the first. p is of a Wilcoxon signed-rank
test, one-sided, that ours has the larger area. The last lines:
  proposal_seconds_at_2000   of our proposer, with 2,000 experiments of fourteen constants behind it, median of five
  auc_ratio_to_tpe ...       our area over theirs, geometric mean over the problems; below 1 is better
  p_worse_than_tpe           the smallest p over the problems times their number (Holm's first step), at most 1
"""

import argparse
import multiprocessing
import os
import platform
import random
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import optuna
from bench_search_methods import CMAES, METHODS, OURS, RANDOM, TPE, ours_after
from bench_search_problems import SYNTHETIC, Problem, training
from bench_search_task import NAME as TASK
from bench_search_task import XLA_FLAGS, make_task
from scipy.stats import wilcoxon

DEFAULT_CACHE = "~/.cache/autoresearch_jax/bench_search"
SYNTHETIC_TRIALS, TASK_TRIALS, SEEDS = 100, 30, 10
PROCESSES = 2
SIGNIFICANT = 0.05
LEAST_AREA = 1e-9  # so that a ratio to a search that found the optimum at once is a number


@dataclass(frozen=True)
class Job:
    """One search.

    Attributes:
      problem: its name.
      method: a key of METHODS.
      seed: of the search.
      trials: how many, the start among them.
      cache: for the real task.
    """

    problem: str
    method: str
    seed: int
    trials: int
    cache: Path


@dataclass(frozen=True)
class Row:
    """A problem's figures: of each method the areas and last values, by seed."""

    name: str
    areas: Mapping[str, np.ndarray]
    finals: Mapping[str, np.ndarray]

    def mean_area(self, method: str) -> float:
        """Over the seeds."""
        return float(self.areas[method].mean())

    def p_worse(self, method: str) -> float:
        """Of our having an area as large as this if we were no worse than the method."""
        differences = self.areas[OURS] - self.areas[method]
        return float(wilcoxon(differences, alternative="greater").pvalue) if differences.any() else 1.0


@lru_cache(maxsize=1)
def _task(cache: Path) -> Problem:
    return make_task(cache, f"process-{os.getpid()}")


def _problems() -> Mapping[str, Problem]:
    return {problem.name: problem for problem in (make() for make in SYNTHETIC)}


def run_job(job: Job) -> list[float | None]:
    """The scores of one search, in its order."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # Optuna's, of what a later version will not have
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = _task(job.cache) if job.problem == TASK else _problems()[job.problem]
    return METHODS[job.method](problem, job.seed, job.trials)


def best_so_far(scores: Sequence[float | None]) -> Iterator[float]:
    """The lowest score up to each trial; the first has one."""
    best = float("inf")
    for score in scores:
        best = best if score is None else min(best, score)
        yield best


def make_row(name: str, curves: Mapping[str, Sequence[Sequence[float]]], best: float | None) -> Row:
    """Figures of a problem from the best so far, by method, seed and trial."""
    if best is None:
        best = min(curve[-1] for method in curves.values() for curve in method)
    areas, finals = {}, {}
    for method, of_seeds in curves.items():
        curve_SxN = np.array(of_seeds)
        start = curve_SxN[0, 0]
        areas[method] = ((curve_SxN[:, 1:] - best) / (start - best)).mean(axis=1)
        finals[method] = curve_SxN[:, -1]
    return Row(name, areas, finals)


def print_table(rows: Sequence[Row]) -> None:
    """A line a problem: area and last value of each method, and how sure it is that ours is worse than TPE."""
    print(f"{'':<10}" + "".join(f"{method:>18}" for method in METHODS) + f"{'p worse than tpe':>18}")
    print(f"{'':<10}" + f"{'area':>9}{'final':>9}" * len(METHODS))
    for row in rows:
        cells = "".join(f"{row.mean_area(m):9.3f}{row.finals[m].mean():9.4f}" for m in METHODS)
        print(f"{row.name:<10}{cells}{row.p_worse(TPE):18.3f}")


def proposal_seconds(outcomes: int) -> float:
    """How long a proposal takes after so many experiments, median of five."""
    seconds = []
    for seed in range(5):
        proposer, brief = ours_after(training(), outcomes, seed)
        start = time.perf_counter()
        proposer.propose(brief)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def measure(jobs: Sequence[Job]) -> dict[Job, list[float | None]]:
    """All searches, two at a time."""
    results = {}
    context = multiprocessing.get_context("spawn")  # JAX's threads do not live through a fork
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        start = time.monotonic()
        futures = {pool.submit(run_job, job): job for job in jobs}
        for number, future in enumerate(as_completed(futures), start=1):
            results[futures[future]] = future.result()
            if number % 20 == 0 or number == len(jobs):
                print(
                    f"{number} of {len(jobs)} searches, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True
                )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few seeds and trials, to see that it works")
    parser.add_argument("--cache", default=DEFAULT_CACHE, help="keeps what the real task measured, to go on from there")
    args = parser.parse_args()
    # of the searches' processes: two of them share two cores
    os.environ["XLA_FLAGS"] = XLA_FLAGS
    os.environ["OMP_NUM_THREADS"] = "1"
    start = time.monotonic()
    seeds, synthetic_trials, task_trials = (2, 12, 4) if args.quick else (SEEDS, SYNTHETIC_TRIALS, TASK_TRIALS)
    cache = Path(args.cache).expanduser()
    problems = {**{name: problem.best for name, problem in _problems().items()}, TASK: None}
    trials = {name: task_trials if name == TASK else synthetic_trials for name in problems}
    jobs = [Job(name, m, seed, trials[name], cache) for name in problems for seed in range(seeds) for m in METHODS]
    random.Random(0).shuffle(jobs)  # long ones and short ones beside each other
    results = measure(jobs)
    rows = []
    for name, best in problems.items():
        curves = {m: [] for m in METHODS}
        for seed in range(seeds):
            for m in METHODS:
                curves[m].append(list(best_so_far(results[Job(name, m, seed, trials[name], cache)])))
        rows.append(make_row(name, curves, best))

    versions = ", ".join(f"{package} {version(package)}" for package in ("jax", "optuna", "cmaes"))
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"date: {datetime.now(UTC):%Y-%m-%d}")
    print(f"{seeds} seeds; {synthetic_trials} trials of the synthetic problems, {task_trials} of {TASK}")
    print_table(rows)
    p_worse = min(1.0, len(rows) * min(row.p_worse(TPE) for row in rows))
    behind = [row.name for row in rows if row.mean_area(OURS) >= row.mean_area(RANDOM)]
    print(f"not worse than TPE on any problem: {'met' if p_worse > SIGNIFICANT else 'NOT MET'}")
    print(f"better than random on every problem: {'NOT MET, ' + ', '.join(behind) if behind else 'met'}")
    print(f"seconds: {time.monotonic() - start:.0f}")
    print(f"proposal_seconds_at_2000: {proposal_seconds(2000):.3f}")
    for method in (TPE, CMAES, RANDOM):
        ratios = [(row.mean_area(OURS) + LEAST_AREA) / (row.mean_area(method) + LEAST_AREA) for row in rows]
        print(f"auc_ratio_to_{method}: {geometric_mean(ratios):.3f}")
    print(f"p_worse_than_tpe: {p_worse:.3f}")


if __name__ == "__main__":
    main()
