"""Measures executors of many trials; called by bench_workers.sh.

A made-up trial is a process that sleeps. One is killed while it is at work, and many are queued at once. The last
lines:
  pool_speedup_4            trials a second of a pool of four slots over those of one slot
  task_overhead_ms          wall time of a trial in one slot beyond that of the same trial without an executor
  process_ms                wall time of the latter beyond its sleep: a process is started and ended
  queued_trials             as many wait at once, on four slots, and sleep for no time
  queued_growth_mib         peak memory of this process at their end beyond that after the first tenth
  queued_growth_files       open files and threads of this process, likewise
  lost_trials               trials of all these that were not answered
  counted_twice             trials that were answered twice

With --steps, of two trials of the demo on the two halves of this CPU's cores:
  steps_beside_0, steps_beside_1          steps an attended second beside the other one, over those alone on these cores
  steps_wall_beside_0, steps_wall_beside_1    the same for steps a second of the wall clock: on a quiet machine only
"""

import argparse
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from bench_conditions import demo_options

from autoresearch_jax.assets.python_constants import set_constants
from autoresearch_jax.executors.base import Executor, Work
from autoresearch_jax.executors.pool import PoolExecutor
from autoresearch_jax.sandbox.process import JsonWorker, WorkerDiedError
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Candidate, Measurement, Scalar, Status

SECONDS = 2.0  # of a made-up trial
SLOTS = 4
KIBIBYTES = 1 << 10  # of a MiB; Linux counts ru_maxrss in KiB


class SleepingMeasurer:
    """Measures with a process that sleeps for as many seconds as the candidate's source says."""

    def __init__(self) -> None:
        self._worker: JsonWorker | None = None

    def measure(
        self,
        candidate: Candidate,
        *,
        seed: int,
        log_dir: Path,
        on_progress: Callable[[Mapping[str, Scalar]], None] | None = None,
        **more: Any,
    ) -> Measurement:
        """See `Task.measure`; the progress tells the process."""
        words = f'echo "{{\\"pid\\": $$}}"; sleep {candidate.source}; echo "{{}}"'
        worker = JsonWorker(["/bin/sh", "-c", words], environment=os.environ, cwd=log_dir, log_path=log_dir / "log")
        self._worker = worker
        try:
            started = worker.receive(60.0)
            if on_progress is not None:
                on_progress(started)
            worker.receive(60.0)
            return Measurement(Status.OK, 0.0, seed)
        except WorkerDiedError as error:
            return Measurement(Status.OOM if error.returncode == -9 else Status.CRASH, None, seed, error=str(error))
        finally:
            self._worker = None
            worker.close()

    def close(self) -> None:
        """Ends the trial that runs."""
        if (worker := self._worker) is not None:
            worker.stop()


class Count:
    """Trials that were handed over, and how often each was answered."""

    def __init__(self) -> None:
        self.submitted = 0
        self.answers: Counter[tuple[int, int]] = Counter()  # by executor and ticket

    def run(
        self, executor: Executor, works: Sequence[Work], each: Callable[[int], None] = lambda number: None
    ) -> float:
        """Hands trials over and waits for all answers; `each` is told how many there are. Returns the wall time."""
        began = time.monotonic()
        for work in works:
            executor.submit(work)
        self.submitted += len(works)
        for number in range(1, len(works) + 1):
            finished = executor.next_finished(60.0)
            if finished is not None:
                self.answers[id(executor), finished.ticket] += 1
            each(number)
        return time.monotonic() - began

    @property
    def lost(self) -> int:
        return self.submitted - len(self.answers)

    @property
    def twice(self) -> int:
        return sum(times - 1 for times in self.answers.values())


def pool(slots: int) -> PoolExecutor:
    return PoolExecutor([SleepingMeasurer() for _ in range(slots)])


def works(number: int, seconds: float, folder: Path, on_progress: Any = None) -> list[Work]:
    """Made-up trials, each of the given number of seconds."""
    candidate = Candidate(f"{seconds:g}", "a hash")
    return [Work(candidate, seed, folder, folder / "snapshot", on_progress=on_progress) for seed in range(number)]


def measure_pool(folder: Path, *, quick: bool) -> dict[str, float]:
    """The figures of the pool."""
    count = Count()
    with closing(pool(1)) as one, closing(pool(SLOTS)) as four:
        singles, together = (2, SLOTS) if quick else (8, 8 * SLOTS)
        slot, direct = list[float](), list[float]()
        for work in works(singles, SECONDS, folder):
            slot.append(count.run(one, [work]))
            began = time.monotonic()
            work.measured_by(SleepingMeasurer().measure, None)
            direct.append(time.monotonic() - began)
        alone = statistics.mean(slot)
        beside = count.run(four, works(together, SECONDS, folder)) / together

        killed: list[int] = []

        def kill_first(report: Mapping[str, Scalar]) -> None:
            if not killed:
                killed.append(int(str(report["pid"])))
                os.kill(killed[0], signal.SIGKILL)

        count.run(four, works(SLOTS, SECONDS, folder, kill_first))

        queued = 50 if quick else 500
        grown: list[tuple[float, int]] = []

        def look(number: int) -> None:
            if number in (queued // 10, queued):
                grown.append((peak_mib(), len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))))

        count.run(four, works(queued, 0.0, folder), look)
    (mib_then, files_then), (mib_now, files_now) = grown
    return {
        "pool_speedup_4": alone / beside,
        "task_overhead_ms": 1000 * (statistics.median(slot) - statistics.median(direct)),
        "process_ms": 1000 * (statistics.median(direct) - SECONDS),
        "queued_trials": queued,
        "queued_growth_mib": mib_now - mib_then,
        "queued_growth_files": files_now - files_then,
        "lost_trials": count.lost,
        "counted_twice": count.twice,
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES


def measure_steps(folder: Path, *, rounds: int, flags: Sequence[str]) -> dict[str, float]:
    """The figures of --steps."""
    options, constants = demo_options("--platform=cpu", "--workers=2", "--clock=attended", "--max_stretch=100", *flags)
    source = Path("train_lib.py")
    found: dict[str, list[Measurement]] = {f"{how} {slot}": [] for how in ("alone", "beside") for slot in (0, 1)}
    with ExitStack() as stack:
        task = stack.enter_context(closing(options.make_task(folder, source)))
        assert isinstance(task, LmTask)
        other = stack.enter_context(closing(task.at(task.other_places[0])))
        candidate = task.prepare(set_constants(source.read_text(encoding="utf-8"), constants), folder)
        task.calibrate(None, folder)
        for turn in range(rounds + 1):  # the first compiles
            for how, tasks in (("alone 0", [task]), ("alone 1", [other]), ("beside", [task, other])):
                measured = together(tasks, candidate, folder / f"{turn} {how}")
                for slot, one in enumerate(measured):
                    name = f"{how} {slot}" if len(tasks) > 1 else how
                    print(f"{name}: {steps(one):.2f} steps a second, {steps_wall(one):.2f} by the wall", flush=True)
                    found[name] += [one] if turn else []
    figures = {}
    for key, speed in (("steps", steps), ("steps_wall", steps_wall)):
        for slot in (0, 1):
            alone, beside = (statistics.median(map(speed, found[f"{how} {slot}"])) for how in ("alone", "beside"))
            figures[f"{key}_beside_{slot}"] = beside / alone
    return figures


def together(tasks: Sequence[LmTask], candidate: Candidate, folder: Path) -> list[Measurement]:
    """A trial of each task at the same time; ends the script if one fails."""
    executor = PoolExecutor(tasks)
    tickets = []
    for slot in range(len(tasks)):
        logs = folder / str(slot)
        logs.mkdir(parents=True)
        tickets.append(executor.submit(Work(candidate, 0, logs, logs / "snapshot")))
    answers = [executor.next_finished() for _ in tickets]
    found = {answer.ticket: answer.result() for answer in answers if answer is not None}
    if bad := [one.error for one in found.values() if one.status is not Status.OK]:
        sys.exit(f"bench_workers: {bad[0]}")
    return [found[ticket] for ticket in tickets]


def number(one: Measurement, name: str) -> float:
    value = one.metrics[name]
    assert isinstance(value, int | float)
    return float(value)


def steps(one: Measurement) -> float:
    """Steps an attended second, without the clock's correction by its reference program, which others slow too."""
    return number(one, "num_steps") * number(one, "machine_speed") / number(one, "training_seconds")


def steps_wall(one: Measurement) -> float:
    return number(one, "num_steps") / (number(one, "wall_seconds") - number(one, "clock_seconds"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials, to see that the script works")
    parser.add_argument("--steps", action="store_true", help="two real trials beside each other, in place of the pool")
    parser.add_argument("--rounds", type=int, default=5, help="of --steps")
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.steps:
            rounds = 1 if arguments.quick else arguments.rounds
            figures = measure_steps(Path(scratch), rounds=rounds, flags=flags)
        else:
            figures = measure_pool(Path(scratch), quick=arguments.quick)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key, value in figures.items():
        print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")


if __name__ == "__main__":
    main()
