"""Compares nights of two loops, in steps; called by bench_night.sh.

  hybrid     `autoresearch run --proposer=hybrid`, the default without a key: constants and shipped ideas
  constants  `autoresearch run --proposer=constants`
  greedy     one or two random constants of the table get a random value within their rows, one run with the seed that
             all have, and what came out lower than the best so far is the new best

All search configs/demo.md's table with fewer layers, from the same program, with the demo's dataset. Equal trials:
Ctrl-C ends the search of `autoresearch run` in the trial at which only certification's share of --trials is left. The
same command, with the experiments that were begun as --experiments, takes that trial up, ends its experiment and
certifies until --trials are made. The greedy loop makes exactly as many trials as the loop that it is compared with,
pruned ones and the baseline's included.

Baseline and champions are trained again on fresh seeds, the same ones for both loops. The last lines are `key: value`:
  night_better_seeds    seeds for which the first loop's champion, trained again, is better than the second's
  night_LOOP_val_bpb_SEED, night_baseline_val_bpb_SEED    mean of the program trained again
  night_LOOP_reported_SEED           of the first, as the run reports it, with its standard deviation
  night_reported_error_sigma_SEED    reported minus trained again, in standard errors of the difference
  night_LOOP_kept_SEED, night_LOOP_trials_SEED    of each of the two loops
"""

import argparse
import math
import multiprocessing
import os
import platform
import random
import re
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench_conditions import DEMO, FRESH_SEEDS, demo_options, draw_value, make_repository, train_again

from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import plus_minus
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.recorder import KEEPS
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.proposers.space import Constant, Value, same
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.types import Scalar, Status

HYBRID, CONSTANTS, GREEDY = "hybrid", "constants", "greedy"
PAGE = "configs/demo.md"
DEPTH = 2  # the most, and what a night begins with: a trial of seconds
TAG = "night"
ENDLESS = 1_000_000
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Options:
    """Size of a night: trials of each loop, steps of a trial, and fresh seeds afterwards."""

    trials: int
    steps: int
    again: int

    @property
    def flags(self) -> list[str]:
        """What differs from the demo."""
        return [f"--budget_steps={self.steps}", f"--set=DEPTH={DEPTH}", "--min_steps=1"]


@dataclass(frozen=True)
class Night:
    """One loop's night."""

    trials: int  # the baseline's included
    experiments: int
    kept: int
    certified: tuple[int, int]  # kept edits that are improvements, and those that were reverted
    claimed: Estimate  # val_bpb of the champion by the loop's own word
    again: Sequence[float]  # of the champion trained again, one for each fresh seed
    baseline: Sequence[float]  # the same; empty of the second loop, which has the same baseline
    minutes: float  # of the loop


def run_loop(loop: str, options: Options, seed: int, scratch: Path, *, is_first: bool) -> Night:
    """A night of one loop."""
    if loop == GREEDY:
        return run_greedy(options, seed, scratch)
    return run_driver(loop, options, seed, scratch, is_first=is_first)


def run_driver(proposer: str, options: Options, seed: int, scratch: Path, *, is_first: bool) -> Night:
    """A night of `autoresearch run`."""
    repository = make_shallow_repository(scratch / f"{proposer}-{seed}")
    ledger_path, start = repository / "runs" / TAG / "ledger.db", time.monotonic()
    command = ["autoresearch", "run", DEMO, f"--proposer={proposer}", f"--tag={TAG}", f"--seed={seed}", *options.flags]
    searching = options.trials - int(CertificationSettings().share * options.trials)
    call([*command, f"--experiments={ENDLESS}"], repository, ledger_path, searching)
    with closing(Ledger.open_to_read(ledger_path)) as ledger:
        begun = sum(row.kind is Kind.PROPOSAL for row in ledger.experiments())
    call([*command, f"--experiments={begun}"], repository, ledger_path, options.trials)
    minutes = (time.monotonic() - start) / 60
    with closing(Ledger.open_to_read(ledger_path)) as ledger:
        summary = summarize_run(ledger)
        assert summary.baseline is not None
        assert summary.champion is not None
        assert summary.champion_score is not None
        baseline = ledger.source(summary.baseline.id)
        return Night(
            trials=len(ledger.trials()),
            experiments=sum(summary.counts.values()),
            kept=sum(summary.counts.get(word, 0) for word in KEEPS),
            certified=summary.certified,
            claimed=summary.champion_score,
            again=measure_again(options, ledger.source(summary.champion.id), seed, repository / "champion"),
            baseline=measure_again(options, baseline, seed, repository / "baseline") if is_first else (),
            minutes=minutes,
        )


def call(command: Sequence[str], repository: Path, ledger_path: Path, trials: int) -> None:
    """Runs a command until it ends, or Ctrl-C ends it when that many trials have begun."""
    log_path = repository / "output"
    with (
        log_path.open("a") as log,
        subprocess.Popen(command, cwd=repository, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            if num_trials(ledger_path) >= trials:
                process.send_signal(signal.SIGINT)
                break
    if process.returncode != 0:
        sys.exit(f"bench_night: {' '.join(command)}: {process.returncode}: {log_path.read_text()[-2000:]}")


def num_trials(ledger_path: Path) -> int:
    with suppress(LedgerError, sqlite3.Error), closing(Ledger.open_to_read(ledger_path)) as ledger:
        return len(ledger.trials())
    return 0  # it is not made yet


def run_greedy(options: Options, seed: int, scratch: Path) -> Night:
    """A night of the bare loop."""
    folder, start, draw = make_shallow_repository(scratch / f"{GREEDY}-{seed}"), time.monotonic(), random.Random(seed)
    task_options, values = demo_options(*options.flags)
    source = set_constants((folder / "train_lib.py").read_text(encoding="utf-8"), values)
    constants = read_constants(source)
    space = ProgramFile(folder / PAGE).program.space(constants)
    best: dict[str, Scalar] = {}
    claimed, kept = math.inf, 0
    with closing(task_options.make_task(folder, Path("train_lib.py"))) as task:
        for number in range(options.trials):
            change = draw_change(space, {**constants, **best}, draw) if number else {}
            log_dir = folder / str(number)
            log_dir.mkdir()
            candidate = task.prepare(set_constants(source, {**best, **change}), log_dir)
            measured = task.measure(candidate, seed=seed, log_dir=log_dir, snapshot_dir=log_dir / "snapshot")
            if measured.status is Status.OK and measured.value is not None and measured.value < claimed:
                claimed, kept = measured.value, kept + bool(number)
                best |= change
            if not number and claimed == math.inf:
                sys.exit(f"bench_night: {folder}: the baseline gave no score: {measured.error}")
    minutes = (time.monotonic() - start) / 60
    again = measure_again(options, set_constants(source, best), seed, folder / "champion")
    return Night(options.trials, options.trials - 1, kept, (0, 0), Estimate(claimed, 0.0), again, (), minutes)


def measure_again(options: Options, source: str, seed: int, folder: Path) -> list[float]:
    """A program's scores on the fresh seeds of the nights with this seed."""
    task_options, _ = demo_options(*options.flags)
    first = FRESH_SEEDS + seed * options.again
    return train_again(task_options, source, range(first, first + options.again), folder)


def make_shallow_repository(folder: Path) -> Path:
    """The demo's, with a page of at most `DEPTH` layers."""
    page = Path(PAGE).read_text(encoding="utf-8")
    changed = re.sub(r"(?m)^(\| `DEPTH` *\| 1 \.\. )\d+ ", rf"\g<1>{DEPTH} ", page)
    assert changed != page, f"{PAGE} has no row of `DEPTH`"
    make_repository(folder, {PAGE: changed})
    return folder


def draw_change(space: Sequence[Constant], now: Mapping[str, object], draw: random.Random) -> dict[str, Value]:
    """One or two constants with another value each, drawn from their rows of the table."""
    change: dict[str, Value] = {}
    for row in draw.sample(list(space), min(len(space), draw.choice((1, 2)))):
        while row.name not in change or same(change[row.name], now[row.name]):
            change[row.name] = draw_value(row.values, draw)
    return change


def estimate(scores: Sequence[float]) -> Estimate:
    """Mean and its standard error."""
    return Estimate(statistics.mean(scores), statistics.stdev(scores) / math.sqrt(len(scores)))


def table(nights: Mapping[int, Mapping[str, Night]]) -> str:
    """The nights side by side, in Markdown."""
    head = "seed", "loop", "minutes", "trials", "experiments", "kept", "certified", "reverted"
    lines = [(*head, "baseline, trained again", "claimed", "trained again"), ("---:", "---", *["---:"] * 9)]
    for seed, pair in nights.items():
        baseline = plus_minus(estimate(next(iter(pair.values())).baseline))
        for loop, night in pair.items():
            counts = night.trials, night.experiments, night.kept, *night.certified
            scores = baseline, plus_minus(night.claimed), plus_minus(estimate(night.again))
            lines.append((str(seed), loop, f"{night.minutes:.1f}", *map(str, counts), *scores))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figures(nights: Mapping[int, Mapping[str, Night]]) -> dict[str, str]:
    """The last lines."""
    found: dict[str, str] = {}
    better = 0
    for seed, pair in nights.items():
        (first, night), (second, _) = pair.items()
        again = {loop: estimate(night.again) for loop, night in pair.items()}
        better += again[first].mean < again[second].mean
        error = math.hypot(night.claimed.error, again[first].error)
        found |= {
            **{f"night_{loop}_val_bpb_{seed}": f"{again[loop].mean:.4f}" for loop in pair},
            f"night_baseline_val_bpb_{seed}": f"{estimate(night.baseline).mean:.4f}",
            f"night_{first}_reported_{seed}": plus_minus(night.claimed),
            f"night_reported_error_sigma_{seed}": f"{(night.claimed.mean - again[first].mean) / error:.2f}",
            **{f"night_{loop}_kept_{seed}": str(one.kept) for loop, one in pair.items()},
            **{f"night_{loop}_trials_{seed}": str(one.trials) for loop, one in pair.items()},
        }
    return {"night_better_seeds": f"{better} of {len(nights)}", **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seeds", 3), ("first", 0), ("trials", 40), ("steps", 150), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--loops", default=f"{HYBRID},{CONSTANTS}", help="two of those above; the second may be greedy")
    parser.add_argument("--quick", action="store_true", help="two seeds, 8 trials of 20 steps")
    arguments = parser.parse_args()
    first, _, second = arguments.loops.partition(",")
    if first not in (HYBRID, CONSTANTS) or second not in {HYBRID, CONSTANTS, GREEDY} - {first}:
        parser.error(f"--loops={arguments.loops}: expected two loops, such as {HYBRID},{CONSTANTS}")
    options = Options(8, 20, 2) if arguments.quick else Options(arguments.trials, arguments.steps, 5)
    seeds = range(arguments.first, arguments.first + (2 if arguments.quick else arguments.seeds))
    nights: dict[int, dict[str, Night]] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
            start = partial(pool.submit, run_loop)
            firsts, seconds = dict[int, Future[Night]](), dict[int, Future[Night]]()
            for seed in seeds:
                firsts[seed] = start(first, options, seed, scratch, is_first=True)
                if second != GREEDY:
                    seconds[seed] = start(second, options, seed, scratch, is_first=False)
            for seed, future in firsts.items():
                same = replace(options, trials=future.result().trials)
                other = seconds.get(seed) or start(second, same, seed, scratch, is_first=False)
                nights[seed] = {first: future.result(), second: other.result()}
                for loop, night in nights[seed].items():
                    print(f"bench_night: {loop} {seed}: {night}", file=sys.stderr, flush=True)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(table(nights))
    for key, value in figures(nights).items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
