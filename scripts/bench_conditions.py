"""Shared by benchmarks: the demo's flags and repository, runs on fresh seeds, burners, random values of constants."""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.options import define_options, read_options
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.proposers.space import Choices, FloatRange, IntRange, Value
from autoresearch_jax.types import Scalar, Status

DEMO = "--flagfile=configs/demo.flags"
BURN = Path(__file__).with_name("burn.py")
FRESH_SEEDS = 1_000_001  # from here on; a loop draws its own from 62 bits, or has --seed
IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")


@contextmanager
def burning(burners: Sequence[tuple[float, float]]) -> Iterator[None]:
    """Runs processes that burn a core each, for (seconds on, seconds off) in turn."""
    processes = [subprocess.Popen([sys.executable, BURN, str(on), str(off)]) for on, off in burners]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_options(*words: str) -> RunOptions:
    """The options of `autoresearch run` with these flags."""
    values = flags.FlagValues()
    define_options(values, RunOptions)
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    flags.DEFINE_string("undefok", "", "", flag_values=values)
    values(["bench", *words])
    return read_options(values, RunOptions)


def demo_options(*more: str) -> tuple[TaskOptions, Mapping[str, Scalar]]:
    """The demo's task, and the constants that it begins with."""
    options = run_options(DEMO, "--nostandby", *more)
    return options.task, options.start.constants


def make_repository(folder: Path, pages: Mapping[str, str] | None = None) -> None:
    """A git repository with what the demo needs, so that its branches are not this checkout's.

    Args:
      folder: made here.
      pages: files whose text differs from the checkout's.
    """
    shutil.copytree("configs", folder / "configs")
    shutil.copy("train_lib.py", folder)
    for name, text in (pages or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    for arguments in (["init", "--quiet"], ["add", "."], [*IDENTITY, "commit", "--quiet", "--message=The demo"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def train_again(options: TaskOptions, source: str, seeds: Sequence[int], folder: Path) -> list[float]:
    """Scores of a program, one a seed; ends the script if there is none."""
    folder.mkdir(parents=True)
    scores = []
    with closing(options.make_task(folder, Path("train_lib.py"), one_trial=True)) as task:
        candidate = task.prepare(source, folder)
        for seed in seeds:
            measured = task.measure(candidate, seed=seed, log_dir=folder, snapshot_dir=folder / str(seed))
            if measured.status is not Status.OK or measured.value is None:
                sys.exit(f"{folder}: {measured.error}")
            scores.append(measured.value)
    return scores


def draw_value(values: Choices | IntRange | FloatRange, draw: random.Random) -> Value:
    """One of a row of the table, to four digits; spread over magnitudes where the row says log."""
    if isinstance(values, Choices):
        return draw.choice(values.values)
    if isinstance(values, IntRange) and not values.log:
        return draw.randint(values.low, values.high)
    low, high = values.low, values.high
    value = low * (high / low) ** draw.random() if values.log else draw.uniform(low, high)
    return round(value) if isinstance(values, IntRange) else min(max(float(f"{value:.4g}"), low), high)
