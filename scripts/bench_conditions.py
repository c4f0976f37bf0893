"""What bench_clock.py and bench_demo.py share: the demo's flags, and processes that burn cores beside it."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.constants_flag import constants_of
from autoresearch_jax.commands.run import define_flags
from autoresearch_jax.commands.task_flags import TaskOptions
from autoresearch_jax.measurement import Scalar

DEMO = "--flagfile=configs/demo.flags"
BURN = Path(__file__).with_name("burn.py")


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


def demo_options(*more: str) -> tuple[TaskOptions, Mapping[str, Scalar]]:
    """The demo's task, and the constants that it begins with."""
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    flags.DEFINE_string("undefok", "", "", flag_values=values)
    values(["bench", DEMO, "--nostandby", *more])
    return TaskOptions.from_flags(values), constants_of(values)
