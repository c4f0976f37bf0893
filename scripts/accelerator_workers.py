"""The part `workers` of check_accelerator.py: a worker on each device, and one worker too many."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from accelerator_plan import ROOT, Plan
from accelerator_result import Result
from accelerator_trials import task_flags
from bench_conditions import run_options

from autoresearch_jax.commands.executors import make_executor
from autoresearch_jax.executors.base import Executor, Work
from autoresearch_jax.executors.places import processor_cores
from autoresearch_jax.executors.pool import PoolExecutor
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Candidate, Measurement, Status

SEED = 7
USED_WRONGLY = 2  # the exit status of a command


def workers(plan: Plan, result: Result) -> None:
    """One trial alone, then one on each device at the same time; a worker more than there are devices is refused."""
    cores = len(processor_cores())
    flags = [
        *task_flags(plan, plan.configurations()[1]),
        *("--mesh=", f"--budget_seconds={plan.pick(5.0, 3.0, 1.0)}"),
    ]
    too_many = (cores if plan.tiny else plan.device.count) + 1
    refusal = refused([*flags, "--tag=refused", f"--workers={too_many}"])
    result.set("refusal", refusal)
    if f"--workers={too_many}" not in refusal:
        result.find(f"--workers={too_many} was not refused by name")
    options = run_options(*flags, f"--workers={min(cores, 2) if plan.tiny else 'auto'}")
    with closing(options.task.make_task(plan.folder / "runs" / "workers", Path("train_lib.py"))) as task:
        assert isinstance(task, LmTask)
        candidate = task.prepare(plan.configurations()[1].source(), plan.folder, beside_a_trial=True)
        task.calibrate(None, plan.folder)
        with closing(PoolExecutor([task])) as one:
            (alone,) = measure(one, candidate, plan.folder / "alone")
        with closing(make_executor(task)) as executor:
            beside = measure(executor, candidate, plan.folder / "beside")
    result.set("workers", len(beside))
    result.set("steps_alone", alone.metrics["num_steps"])
    result.set("steps_beside", [one.metrics["num_steps"] for one in beside])
    result.set("least_share_of_steps", round(min(steps(one) for one in beside) / steps(alone), 3))


def refused(flags: Sequence[str]) -> str:
    """The line with which a run is refused; another text where it is not."""
    command = [sys.executable, "-m", "autoresearch_jax.cli", "trial", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != USED_WRONGLY:
        return f"none: exit status {done.returncode}"
    return done.stderr.strip().splitlines()[-1]


def measure(executor: Executor, candidate: Candidate, folder: Path) -> list[Measurement]:
    """A trial in each slot at the same time; ends this part if one fails."""
    for slot in range(executor.slots):
        logs = folder / str(slot)
        logs.mkdir(parents=True)
        executor.submit(Work(candidate, SEED, logs, logs / "snapshot"))
    answers = [executor.next_finished() for _ in range(executor.slots)]
    found = [answer.result() for answer in answers if answer is not None]
    if bad := [one for one in found if one.status is not Status.OK]:
        sys.exit(f"a trial ended as {bad[0].status}: {bad[0].error}")
    return found


def steps(one: Measurement) -> float:
    number = one.metrics["num_steps"]
    assert isinstance(number, int)
    return float(number)
