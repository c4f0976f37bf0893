"""Measures what the driver costs beside proposing and measuring; called by bench_driver.sh.

The real loop with the default rule, in a real repository with train_lib.py and program.md as they come. Proposals are
known beforehand, and a formula scores them. An experiment's overhead is the wall time from the answer of the proposer
to the next question, less what the task took. The last lines' figures:
  overhead_ms_at_1      median of the first 20 experiments, in milliseconds (wanted: at most 50)
  overhead_ms_at_2000   median of the last 20; N in place of 2000 with --experiments=N (wanted: at most 50)
  rss_growth_mb         memory of the driver at the end less that after experiment 200 (wanted: under 20)
  fd_growth             file descriptors, counted likewise (wanted: 0)
  resume_seconds        a new process on the finished ledger until it asks its proposer, median of 3, without
                        interpreter and imports (wanted: under 2)
"""

import argparse
import hashlib
import math
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.assets.base import ConstantValue
from autoresearch_jax.assets.python_constants import read_constants
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import LineageRule
from autoresearch_jax.engine import flight
from autoresearch_jax.engine.briefs import LOSS_CURVE
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import Loop
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.program import ProgramFile, ProgramPage
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, Brief, Proposal, SpaceExhausted
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, Value
from autoresearch_jax.types import Budget, Candidate, Measurement, Metric, Scalar, Status

SHIPPED = Path(__file__).resolve().parent.parent
sys.path.append(str(SHIPPED / "tests"))
from fakes import FakeTask, ScriptedProposer, Silent  # noqa: E402
from slots import DrawnOrder  # noqa: E402

TAG = "bench"
WINDOW = 20  # experiments whose median is a figure
SETTLED = 200  # after so many, memory and file descriptors should be what they will be
RESUMES = 3
NOISE = 0.002  # standard deviation of a run
CRASHES = 0.05  # share of programs that do not run
METRICS = 32  # about as many figures as a trial of the language model has
STEPS = 500  # rows of a loss curve


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall, and of processors, git's included: the second are what a busy machine changes little."""

    wall: float
    cpu: float

    @classmethod
    def until_now(cls) -> "Spent":
        """Since some time in the past."""
        usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages))

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


@dataclass
class Stopwatch:
    """Adds up what is not the driver's, and notes between two proposals what is."""

    not_ours: Spent = Spent(0.0, 0.0)
    answered: Spent | None = None  # when the proposer answered last
    overheads: list[Spent] = field(default_factory=list)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Does not count what happens inside."""
        start = Spent.until_now()
        yield
        self.not_ours += Spent.until_now() - start

    def asked(self) -> None:
        """Ends an experiment."""
        if self.answered is not None:
            self.overheads.append(Spent.until_now() - self.answered - self.not_ours)

    def answer(self) -> None:
        """Begins an experiment."""
        self.not_ours = Spent(0.0, 0.0)
        self.answered = Spent.until_now()


class FormulaTask(FakeTask):
    """Scores the constants of program.md's table by their distances from a hidden best, with noise, in no time."""

    def __init__(self, program: ProgramPage, seed: int, watch: Stopwatch) -> None:
        super().__init__(fingerprint="formula")
        self._program = program
        self._seed = seed
        self._watch = watch
        self.metric = Metric("val_bpb")
        self.budget = Budget(seconds=60.0)

    def prepare(self, source: str, log_dir: Path, *, beside_a_trial: bool = False) -> Candidate:
        with self._watch.stopped():
            constants = sorted(read_constants(source).items())
            return Candidate(source, hashlib.sha256(repr(constants).encode()).hexdigest())

    def measure(
        self, candidate: Candidate, *, seed: int, log_dir: Path, snapshot_dir: Path, **others: object
    ) -> Measurement:
        with self._watch.stopped():
            if random.Random(f"crash {candidate.program_hash}").random() < CRASHES:
                return Measurement(Status.CRASH, None, seed, error="made to crash")
            draw = random.Random(f"{candidate.program_hash} {seed}")
            losses = "".join(f"{step},{step / 9:.3f},{draw.uniform(2, 8):.6f}\n" for step in range(STEPS))
            (log_dir / LOSS_CURVE).write_text(f"step,elapsed_seconds,loss\n{losses}")
            snapshot_dir.mkdir()
            metrics: dict[str, Scalar] = {f"figure_{number}": draw.random() for number in range(METRICS)}
            metrics |= {"peak_memory_bytes": 2**30, "num_steps": STEPS, "training_seconds": 60.0, "total_seconds": 70.0}
            score = self._score(read_constants(candidate.source)) + draw.gauss(0, NOISE)
            return Measurement(Status.OK, score, seed, metrics, snapshot_dir)

    def _score(self, constants: Mapping[str, ConstantValue]) -> float:
        best = random.Random(self._seed)
        score = 1.0
        for row in self._program.constants:
            value = constants[row.name]
            assert isinstance(value, int | float | str)
            score += 0.05 * (_place(row, value) - best.random()) ** 2
        return score


class KnownProposals(ScriptedProposer):
    """Proposes one or two random values for constants of program.md's table, drawn before the clock runs."""

    def __init__(self, program: ProgramPage, count: int, seed: int, watch: Stopwatch) -> None:
        draw = random.Random(f"proposals {seed}")
        super().__init__([_draw_proposal(program.constants, draw) for _ in range(count)])
        self._watch = watch
        self.asked_at: float | None = None  # `time.perf_counter()` of the first question
        self.settled: tuple[float, int] | None = None  # megabytes and file descriptors after SETTLED experiments
        self.last: tuple[float, int] | None = None  # and at the last question

    def propose(self, brief: Brief) -> Proposal:
        self._watch.asked()
        if self.asked_at is None:
            self.asked_at = time.perf_counter()
        self.last = (resident_megabytes(), open_files())
        if brief.experiment == min(SETTLED, len(self._proposals)) + 1:
            self.settled = self.last
        if brief.experiment > len(self._proposals):
            self._watch.answered = None
            raise SpaceExhausted("the proposals are used up")
        proposal = self._proposals[brief.experiment - 1]
        self._watch.answer()
        return proposal


def _place(row: Constant, value: Value) -> float:
    """Where a value lies among those that it may have, from 0 to 1."""
    if isinstance(row.values, Choices):
        return row.values.values.index(value) / len(row.values.values)
    assert isinstance(value, int | float)
    low, high = row.values.low, row.values.high
    if row.values.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _draw_value(row: Constant, draw: random.Random) -> Value:
    if isinstance(row.values, Choices):
        return draw.choice(row.values.values)
    low, high = row.values.low, row.values.high
    if not isinstance(row.values, FloatRange):
        return draw.randint(int(low), int(high))
    value = low * (high / low) ** draw.random() if row.values.log else draw.uniform(low, high)
    return round(value, 6)


def _draw_proposal(rows: Sequence[Constant], draw: random.Random) -> Proposal:
    values = {row.name: _draw_value(row, draw) for row in draw.sample(rows, draw.choice((1, 2)))}
    words = ", ".join(f"{name} {value}" for name, value in values.items())
    return Proposal(f"{words} may suit a budget of a minute better", CONSTANTS_CATEGORY, values)


def resident_megabytes() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def make_repository(repo: Path) -> None:
    """A git repository with the files as they come, but for the end of a night without a keep."""
    program = (SHIPPED / "program.md").read_text(encoding="utf-8")
    page = program.replace("no keep in 40 experiments", "no keep in 1000000 experiments")
    assert page != program, "program.md has another stopping list now"
    (repo / "program.md").write_text(page, encoding="utf-8")
    (repo / "train_lib.py").write_bytes((SHIPPED / "train_lib.py").read_bytes())
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "start")):
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        subprocess.run(["git", *identity, *words], cwd=repo, check=True)


def run_loop(repo: Path, count: int, seed: int, in_flight: int) -> tuple[Stopwatch, KnownProposals]:
    """The loop in a repository, from wherever its ledger is to `count` experiments, as the command would run it."""
    watch = Stopwatch()
    flight.MOST_AT_ONCE = in_flight
    folder = RunFolder(repo / "runs" / TAG)
    folder.create()
    program = ProgramFile(repo / "program.md")
    task = FormulaTask(program.program, seed, watch)
    proposer = KnownProposals(program.program, count, seed, watch)
    with closing(Ledger.open(folder.ledger)) as ledger:
        parts = Parts(
            task=task,
            executor=DrawnOrder(task.measure, in_flight, seed),
            proposer=proposer,
            precheck=Precheck(task, folder),
            rule=LineageRule(task.metric),
            certification=CertificationSettings(),
            ledger=ledger,
            workspace=Workspace.of(repo / "train_lib.py", TAG, folder.workspace, os.environ),
            folder=folder,
            program=program,
            observer=Silent(),
            interrupts=Interrupts(),
            disk=DiskGuard(folder, min_free_bytes=0),
        )
        Loop(parts, seed, max_experiments=count + 1).run()  # one more, so that the last one is asked for
    return watch, proposer


def resume(repo: Path, count: int, seed: int, in_flight: int) -> float:
    """Seconds until the proposer is asked."""
    start = time.perf_counter()
    _, proposer = run_loop(repo, count, seed, in_flight)
    assert proposer.asked_at is not None
    return proposer.asked_at - start


def resume_elsewhere(repo: Path, count: int, seed: int, in_flight: int) -> float:
    """As `resume`, in a process of its own."""
    flags = [f"--experiments={count}", f"--seed={seed}", f"--in_flight={in_flight}", f"--resume={repo}"]
    command = [sys.executable, __file__, *flags]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def median_ms(overheads: Sequence[Spent]) -> float:
    """Of the time on the wall, in milliseconds."""
    return statistics.median(spent.wall for spent in overheads) * 1e3


def print_growth(overheads: Sequence[Spent]) -> None:
    """Prints what experiments took, in milliseconds, over the length of the run."""
    print(f"{'experiments':<16}{'median ms':<12}{'p95 ms':<10}{'slowest ms':<12}median ms of processors")
    width = max(WINDOW, len(overheads) // 10)
    last = len(overheads) - WINDOW
    spans = [(0, WINDOW), *((first, first + width) for first in range(0, last, width)), (last, len(overheads))]
    for first, end in dict.fromkeys(spans):
        part = overheads[first:end]
        walls = [spent.wall * 1e3 for spent in part]
        cpu = statistics.median(spent.cpu for spent in part) * 1e3
        percentile = statistics.quantiles(walls, n=20)[-1]
        name = f"{first + 1}..{first + len(part)}"
        print(f"{name:<16}{median_ms(part):<12.1f}{percentile:<10.1f}{max(walls):<12.1f}{cpu:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2000, help=f"at least {WINDOW}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in_flight", type=int, default=1, help="trials at a time, which end in a drawn order")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    count, seed, in_flight = args.experiments, args.seed, args.in_flight
    if count < WINDOW:
        parser.error(f"--experiments={count}: the figures are medians of {WINDOW}")
    if args.resume is not None:
        print(resume(args.resume, count, seed, in_flight))
        return
    start = time.monotonic()
    print(f"machine: {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", end=", ")
    print(f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as name:
        repo = Path(name)
        make_repository(repo)
        watch, proposer = run_loop(repo, count, seed, in_flight)
        with closing(Ledger.open_to_read(RunFolder(repo / "runs" / TAG).ledger)) as ledger:
            rows, trials = ledger.experiments(), ledger.trials()
        resumes = [resume_elsewhere(repo, count, seed, in_flight) for _ in range(RESUMES)]
    kept = sum(row.decision == "keep" for row in rows)
    made = f"{len(rows)} experiments with the baseline, {len(trials)} trials, {kept} kept"
    print(f"{made}, seed {seed}, {in_flight} in flight")
    print_growth(watch.overheads)
    assert len(watch.overheads) == count
    assert proposer.settled is not None
    assert proposer.last is not None
    (megabytes, files), (last_megabytes, last_files) = proposer.settled, proposer.last
    print(f"rss_mb: {last_megabytes:.0f}")
    print(f"seconds: {time.monotonic() - start:.0f}, load {os.getloadavg()[0]:.2f}")
    print(f"overhead_ms_at_1: {median_ms(watch.overheads[:WINDOW]):.1f}")
    print(f"overhead_ms_at_{count}: {median_ms(watch.overheads[-WINDOW:]):.1f}")
    print(f"rss_growth_mb: {last_megabytes - megabytes:.1f}")
    print(f"fd_growth: {last_files - files}")
    print(f"resume_seconds: {statistics.median(resumes):.2f}")


if __name__ == "__main__":
    main()
