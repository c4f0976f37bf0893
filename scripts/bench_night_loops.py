"""The loops whose nights bench_night.py compares: `autoresearch run`, and the bare one."""

import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_night_report import GREEDY, Night, Setting

from autoresearch_jax.lm.hardware import host_processors
from autoresearch_jax.proposers.space import Choices, Constant, IntRange, Value, same
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.search.constants import read_constants, set_constants
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.program_file import ProgramFile
from autoresearch_jax.search.records import ExperimentRow, Kind, Purpose, Verdict

SHIPPED = Path(__file__).resolve().parent.parent
FILES = ("train_lib.py", "program.md")
TAG = "night"
FLAGS_OF = {"full": (), "no_prune": ("--noprune",), "no_standby": ("--nostandby",)}
STOP_SECONDS = 60.0  # after which what does not end by itself is killed; it promises 10
QUICK_FLAGS = ("--min_steps=1",)
QUICK_RUN_FLAGS = ("--baseline_runs=2", "--max_runs=5")


@dataclass(frozen=True)
class Options:
    """How long, and of what.

    Attributes:
      seconds: of each night.
      budget_seconds: of each trial.
      seed: the source of every seed.
      data_dir: of the dataset; None for the usual one.
      quick: True for what only shows that it works.
    """

    seconds: float
    budget_seconds: float
    seed: int
    data_dir: str | None
    quick: bool

    @property
    def dataset_flags(self) -> list[str]:
        flags = [f"--flagfile={SHIPPED / 'configs' / 'cpu.flags'}"]
        return flags if self.data_dir is None else [*flags, f"--data_dir={self.data_dir}"]

    def task_flags(self, cache: Path) -> list[str]:
        """What `run` and `trial` have in common."""
        quick = QUICK_FLAGS if self.quick else ()
        return [*self.dataset_flags, f"--budget_seconds={self.budget_seconds:g}", f"--compile_cache={cache}", *quick]

    @property
    def settings(self) -> dict[str, Setting]:
        """What two nights must have in common to be compared."""
        return {
            "minutes": self.seconds / 60,
            "budget_seconds": self.budget_seconds,
            "seed": self.seed,
            "quick": self.quick,
            "processors": host_processors(),
            "files": hashlib.sha256(b"".join((SHIPPED / name).read_bytes() for name in FILES)).hexdigest()[:8],
        }


def machine() -> str:
    """Where this runs, and how busy it is."""
    load_now = f"load {os.getloadavg()[0]:.1f}"
    return f"{host_processors()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, {load_now}"


def call(command: Sequence[str], folder: Path, log: Path, deadline: float = float("inf")) -> tuple[int | None, str]:
    """Exit status and output of a command; None for one that the deadline (`time.time()`) ended by Ctrl-C."""
    seconds = None if deadline == float("inf") else max(0.0, deadline - time.time())
    with log.open("a") as errors:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        status: int | None = None
        try:
            output, _ = process.communicate(timeout=seconds)
            status = process.returncode
        except subprocess.TimeoutExpired:
            output = _stop(process)
        except BaseException:
            _stop(process)
            raise
    return status, output


def _stop(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=STOP_SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def give_up(command: Sequence[str], status: int | None, log: Path) -> None:
    """Ends the script with the last words of a command."""
    tail = log.read_text(errors="replace")[-2000:]
    sys.exit(f"bench_night: {' '.join(command)}: exit status {status}\n{tail}")


def run_system(variant: str, options: Options, scratch: Path, kept: Path) -> Night:
    """A night of `autoresearch run`."""
    repository, log = scratch / "repository", kept / "output"
    command = ["autoresearch", "run", f"--tag={TAG}", f"--seed={options.seed}", *FLAGS_OF[variant]]
    command += [*options.task_flags(scratch / "cache"), *(QUICK_RUN_FLAGS if options.quick else ())]
    start = time.time()
    status, _ = call(command, repository, log, start + options.seconds)
    seconds = min(time.time() - start, options.seconds)
    if status not in (None, 0):
        give_up(command, status, log)
    with closing(Ledger.open_to_read(repository / "runs" / TAG / "ledger.db")) as ledger:
        night, source = read_night(ledger, variant, options, start, seconds)
    (kept / "train_lib.py").write_text(source, encoding="utf-8")
    return night


def read_night(ledger: Ledger, variant: str, options: Options, start: float, seconds: float) -> tuple[Night, str]:
    """What a run's ledger tells of a night, and the source of its last champion.

    Args:
      ledger: of the run.
      variant: its name.
      options: what the run was started with.
      start: of the night, in seconds since 1970.
      seconds: it took.
    """
    rows = [row for row in ledger.experiments() if not row.is_open and row.kind is not Kind.TRIAL]
    champions = [row for row in rows if row.decision is Verdict.KEEP]
    if not champions:
        sys.exit(f"bench_night: {variant}: the baseline was not done in {seconds:.0f} s: more --minutes")
    proposals = [row.created_at for row in ledger.experiments() if row.kind is Kind.PROPOSAL]
    night = Night(
        variant=variant,
        settings=options.settings,
        seconds=seconds,
        baseline_seconds=min(proposals, default=start + seconds) - start,
        curve=[(_ended_at(row, ledger) - start, row.score) for row in champions if row.score is not None],
        outcomes=summarize_run(ledger).counts,
        trials=sum(trial.status is not None for trial in ledger.trials()),
        claimed=champions[-1].score or 0.0,
        machine=machine(),
    )
    return night, ledger.source(champions[-1].id)


def _ended_at(row: ExperimentRow, ledger: Ledger) -> float:
    """When the trials that decided on an experiment were over; of the baseline, when the first was."""
    ended = [trial for trial in ledger.trials(row.id) if trial.finished_at is not None]
    decisive = [trial for trial in ended if trial.purpose is Purpose.CANDIDATE] or ended[:1]
    return max((trial.finished_at or 0.0 for trial in decisive), default=row.created_at)


def run_greedy(options: Options, scratch: Path, kept: Path) -> Night:
    """A night of the bare loop."""
    repository, draw = scratch / "repository", random.Random(options.seed)
    source = (repository / "train_lib.py").read_text(encoding="utf-8")
    constants = read_constants(source)
    space = ProgramFile(repository / "program.md").program.space(constants)
    start = time.time()
    curve: list[tuple[float, float]] = []
    outcomes: dict[str, int] = {}
    best: dict[str, Value] = {}
    trials, baseline_seconds = 0, options.seconds
    while time.time() < start + options.seconds:
        change = draw_change(space, {**constants, **best}, draw) if curve else {}
        summary = try_out(options, {**best, **change}, scratch, kept, start + options.seconds)
        if summary is None:
            break
        now = time.time() - start
        trials += 1
        is_better = summary["status"] == "ok" and (not curve or summary["val_bpb"] < curve[-1][1])
        if curve:
            outcome = "keep" if is_better else "discard" if summary["status"] == "ok" else summary["status"]
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        elif not is_better:
            sys.exit(f"bench_night: {GREEDY}: the baseline gave no score: {summary['error']}")
        else:
            baseline_seconds = now
        if is_better:
            curve.append((now, summary["val_bpb"]))
            best |= change
    if not curve:
        sys.exit(f"bench_night: {GREEDY}: the baseline was not done in {options.seconds:.0f} s: more --minutes")
    (kept / "train_lib.py").write_text(set_constants(source, best), encoding="utf-8")
    seconds, claimed = min(time.time() - start, options.seconds), curve[-1][1]
    return Night(
        *(GREEDY, options.settings, seconds, baseline_seconds, curve, outcomes, trials, claimed), machine=machine()
    )


def try_out(
    options: Options, values: Mapping[str, Value], scratch: Path, kept: Path, deadline: float
) -> dict[str, Any] | None:
    """The summary of one trial with these constants; None if the night ended before it did."""
    command = ["autoresearch", "trial", "--format=json", f"--seed={options.seed}"]
    command += options.task_flags(scratch / "cache")
    for name, value in values.items():
        command += ["--set", f"{name}={value}"]
    return read_trial(command, scratch / "repository", kept / "output", deadline)


def read_trial(
    command: Sequence[str], folder: Path, log: Path, deadline: float = float("inf")
) -> dict[str, Any] | None:
    """What a trial printed; None if the deadline ended it."""
    status, output = call(command, folder, log, deadline)
    if status is None:
        return None
    if not output:
        give_up(command, status, log)
    summary: dict[str, Any] = json.loads(output)
    return summary


def draw_change(space: Sequence[Constant], now: Mapping[str, Any], draw: random.Random) -> dict[str, Value]:
    """One or two constants with another value each, drawn from their rows of the table."""
    rows = draw.sample(list(space), min(len(space), draw.choice((1, 2))))
    return {row.name: next(value for value in _draws(row, draw) if not same(value, now[row.name])) for row in rows}


def _draws(row: Constant, draw: random.Random) -> Iterator[Value]:
    while True:
        if isinstance(row.values, Choices):
            yield draw.choice(row.values.values)
            continue
        low, high = row.values.low, row.values.high
        if isinstance(row.values, IntRange) and not row.values.log:
            yield draw.randint(int(low), int(high))
            continue
        value = low * (high / low) ** draw.random() if row.values.log else draw.uniform(low, high)
        yield round(value) if isinstance(row.values, IntRange) else min(max(float(f"{value:.4g}"), low), high)
