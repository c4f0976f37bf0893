"""Measures what a trial costs beside its budget in a running loop; called by bench_loop.sh.

Three runs of `autoresearch run` in the default CPU configuration take turns, each in a repository and with a compile
cache of its own. Their candidates differ in learning rates alone, so that all steps cost the same.
  standby     the optimizer proposes, which it does once the last outcome is known; the next trial's process waits
  without     the same with --nostandby
  ahead       as "standby", but an agent with a command line proposes, which is asked ahead, and what it proposed is
              traced beside the trial

What is counted: the overhead of a trial is the wall time from the end of the trial before it to its own end, less that
of its training; so it has the decision, the ledger, git, the next proposal, its trace and its check in it. If the trial
had to compile a program (metric compiled_programs), its compile phase is taken off: it is reported apart. A replicate
is a trial of a program that a trial of the run had before. Left out are trials that gave no score, the first of each
session of the driver, and those that an experiment without a trial lies before.

The last lines' figures, medians where nothing else is said:
  overhead_seconds                    of "standby" (wanted: at most 4)
  overhead_seconds_without_standby    of "without"
  overhead_seconds_ahead              of "ahead"
  replicate_overhead_seconds          of the replicates among those of "standby"
  compile_seconds                     compile phase of a program that was not measured before, all runs
  replicate_compile_seconds           compile phase of replicates, all runs
  replicate_compiled_programs         the most that a replicate compiled (wanted: 0)
  overhead_share_of_300s              overhead_seconds in percent of a budget of 300 s
  tokens_per_second_ratio             tokens per second in the budget, "ahead" over "without" (wanted: 1)
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).resolve().parent.parent
TAG = "bench"
BASELINE_RUNS = 3
MAX_RUNS = 5  # of a candidate: enough replicates, and an end
NEW_PER_ROUND = 2  # experiments that each run adds when it is its turn
# Another learning rate each time; what it costs a step is the same
AGENT = "echo '# another rate' > HYPOTHESIS.md; sed -i \"s/^MATRIX_LR = .*/MATRIX_LR = 0.0$(date +%N)/\" train_lib.py"
PAGE = """# Rates

## Goal

Another learning rate.

## You may change

| constant | values | note |
|---|---|---|
| `MATRIX_LR` | 0.02 .. 0.08 log | |
| `EMBEDDING_LR` | 0.3 .. 1.2 log | |
| `UNEMBEDDING_LR` | 0.002 .. 0.008 log | |

## Stop when

- 1000 experiments
"""


@dataclass(frozen=True)
class Arm:
    """A run that takes turns with the others."""

    name: str
    folder: Path
    flags: Sequence[str]

    @property
    def ledger(self) -> Path:
        return self.folder / "runs" / TAG / "ledger.db"


@dataclass(frozen=True)
class Sample:
    """A trial as it is counted; seconds."""

    overhead: float | None
    compile: float
    compiled_programs: int
    is_replicate: bool
    tokens_per_second: float


def make_repository(folder: Path) -> None:
    """A repository with the training file as it comes, and a page that moves learning rates alone."""
    folder.mkdir()
    shutil.copyfile(SHIPPED / "train_lib.py", folder / "train_lib.py")
    (folder / "program.md").write_text(PAGE, encoding="utf-8")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "start")):
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        subprocess.run(["git", *identity, *words], cwd=folder, check=True)


def go_on(arm: Arm, experiments: int, budget_seconds: float, baseline_runs: int) -> None:
    """Carries an arm's run on until it has so many experiments."""
    command = [
        *("autoresearch", "run", f"--tag={TAG}", f"--flagfile={SHIPPED / 'configs' / 'cpu.flags'}"),
        *(f"--budget_seconds={budget_seconds:g}", f"--experiments={experiments}", f"--baseline_runs={baseline_runs}"),
        *(f"--max_runs={MAX_RUNS}", "--min_steps=1", f"--compile_cache={arm.folder / 'cache'}", *arm.flags),
    ]
    log = arm.folder / "output"
    with log.open("ab") as output:
        done = subprocess.run(command, cwd=arm.folder, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = log.read_text(errors="replace")[-2000:]
        sys.exit(f"bench_loop: {' '.join(command)}: exit status {done.returncode}\n{tail}")


def read_samples(ledger: Path) -> list[Sample]:
    """The trials of a run that gave a score."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        trials = database.execute("SELECT * FROM trials WHERE finished_at IS NOT NULL ORDER BY id").fetchall()
        breaks = [row["began_at"] for row in database.execute("SELECT began_at FROM sessions")]
        measured = {trial["experiment"] for trial in trials}
        breaks += [
            row["created_at"]
            for row in database.execute("SELECT id, created_at FROM experiments")
            if row["id"] not in measured
        ]
    samples, seen = [], set()
    for before, trial in itertools.pairwise([None, *trials]):
        metrics: dict[str, Any] = json.loads(trial["metrics"] or "{}")
        is_replicate = trial["experiment"] in seen
        seen.add(trial["experiment"])
        if trial["status"] != "ok":
            continue
        compiled = int(metrics["compiled_programs"])
        overhead = None
        if before is not None and not any(before["finished_at"] <= at <= trial["finished_at"] for at in breaks):
            overhead = trial["finished_at"] - before["finished_at"] - metrics["wall_seconds"]
            overhead -= metrics["compile_seconds"] if compiled else 0.0
        samples.append(
            Sample(overhead, metrics["compile_seconds"], compiled, is_replicate, metrics["tokens_per_second"])
        )
    return samples


def median_overhead(samples: Sequence[Sample], *, replicates_only: bool = False) -> float:
    """Median of what is counted; ends the script if that is nothing."""
    found = [
        sample.overhead
        for sample in samples
        if sample.overhead is not None and (sample.is_replicate or not replicates_only)
    ]
    if not found:
        sys.exit("bench_loop: no trial to count: more --rounds")
    return statistics.median(found)


def print_samples(name: str, samples: Sequence[Sample]) -> None:
    """A line for each trial."""
    for number, sample in enumerate(samples):
        overhead = "-" if sample.overhead is None else f"{sample.overhead:.2f}"
        kind = "replicate" if sample.is_replicate else "new"
        print(
            f"{name if not number else '':<10}{kind:<11}{overhead:>9}{sample.compile:>9.2f}"
            f"{sample.compiled_programs:>10d}{sample.tokens_per_second:>12,.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="to see that the script works; no figures to quote")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each run")
    parser.add_argument("--budget_seconds", type=float, default=10.0)
    args = parser.parse_args()
    budget_seconds, rounds, new, baseline_runs = args.budget_seconds, args.rounds, NEW_PER_ROUND, BASELINE_RUNS
    if args.quick:
        budget_seconds, rounds, new, baseline_runs = 2.0, 1, 1, 2
    print(f"machine: {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", end=", ")
    print(f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as name:
        agent = ("--proposer=command", f"--agent_command={AGENT}")
        arms = [
            Arm("standby", Path(name) / "standby", ("--standby", "--proposer=constants")),
            Arm("without", Path(name) / "without", ("--nostandby", "--proposer=constants")),
            Arm("ahead", Path(name) / "ahead", ("--standby", *agent)),
        ]
        for arm in arms:
            make_repository(arm.folder)
        for number in range(1, rounds + 1):
            for arm in arms if number % 2 else reversed(arms):
                go_on(arm, number * new, budget_seconds, baseline_runs)
        samples = {arm.name: read_samples(arm.ledger) for arm in arms}
    print(f"{'run':<10}{'trial':<11}{'overhead':>9}{'compile':>9}{'compiled':>10}{'tokens/s':>12}")
    for arm_name, of_arm in samples.items():
        print_samples(arm_name, of_arm)
    every = [sample for of_arm in samples.values() for sample in of_arm]
    speed = {key: statistics.median(sample.tokens_per_second for sample in value) for key, value in samples.items()}
    overhead = median_overhead(samples["standby"])
    print(f"load {os.getloadavg()[0]:.2f}")
    print(f"overhead_seconds: {overhead:.2f}")
    print(f"overhead_seconds_without_standby: {median_overhead(samples['without']):.2f}")
    print(f"overhead_seconds_ahead: {median_overhead(samples['ahead']):.2f}")
    print(f"replicate_overhead_seconds: {median_overhead(samples['standby'], replicates_only=True):.2f}")
    print(f"compile_seconds: {statistics.median(s.compile for s in every if not s.is_replicate):.2f}")
    print(f"replicate_compile_seconds: {statistics.median(s.compile for s in every if s.is_replicate):.2f}")
    print(f"replicate_compiled_programs: {max(s.compiled_programs for s in every if s.is_replicate)}")
    print(f"overhead_share_of_300s: {100 * overhead / 300:.2f}")
    print(f"tokens_per_second_ratio: {speed['ahead'] / speed['without']:.3f}")


if __name__ == "__main__":
    main()
