"""Flags that define the language-model task, shared by every command that trains or judges."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.dataset_flags import dataset_options, define_dataset_flags
from autoresearch_jax.engine.task import Task
from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.sandbox import CHOICES, Level, Sandbox, open_sandbox
from autoresearch_jax.tasks import open_task
from autoresearch_jax.tasks.lm.accounting import ATTENDED, WALL, AccountingError, try_accounting
from autoresearch_jax.tasks.lm.config import Caps, LmTaskConfig, TimeLimits
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device, device_terms, find_device
from autoresearch_jax.tasks.lm.task import LmTerms
from autoresearch_jax.types import Budget

MESH_AXES = ("data", "model")
DEFAULT_BUDGET_SECONDS = 300.0  # the original's
MIN_STRETCH = 1.5  # the clock's calibrations, outside of the budget, take 4 % of the wall time even on an idle machine
CACHE_DIR = "~/.cache/autoresearch_jax"
UNCONFINED = (
    "the training file runs with limits but not confined: it can read this machine's files; "
    "`autoresearch doctor` says how to get a sandbox, --sandbox=require refuses to run without"
)
LM = "lm"  # the task that these flags configure
CLOCKS = ("auto", ATTENDED, WALL)
PLATFORMS = ("auto", "cpu", "cuda", "tpu")


def define_task_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of dataset, budget and machine."""
    define_dataset_flags(flag_values)
    flags.DEFINE_float(
        "budget_seconds",
        None,
        f"training time of one trial in seconds (default: {DEFAULT_BUDGET_SECONDS:g})",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "budget_steps",
        None,
        "training steps of one trial, in place of --budget_seconds; repeatable",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "clock",
        "auto",
        list(CLOCKS),
        "what --budget_seconds counts: attended, the time that a trial had the machine and other work on it had not; "
        "wall, all time; auto takes attended on a CPU where the kernel keeps the accounts, else wall",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "max_stretch",
        5.0,
        "end a trial, as timeout, once it has trained for this many times its --budget_seconds by the wall clock",
        flag_values=flag_values,
    )
    flags.register_validator(
        "max_stretch",
        lambda stretch: MIN_STRETCH <= stretch < math.inf,
        f"must be at least {MIN_STRETCH:g}, such as 5; to end trials with their budget by the wall clock, leave it out "
        "and use --clock=wall",
        flag_values=flag_values,
    )
    flags.DEFINE_enum("platform", "auto", list(PLATFORMS), "what to run on", flag_values=flag_values)
    flags.DEFINE_string(
        "mesh",
        "",
        "devices of each mesh axis, such as data=4,model=2; empty puts all devices on data",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "judge_tokens", None, "judge about so many tokens instead of the whole split", flag_values=flag_values
    )
    define_sandbox_flag(flag_values)
    caps = Caps()
    for name, default, what in (
        ("max_source_bytes", caps.source_bytes, "reject a training file larger than this"),
        ("max_constant_bytes", caps.constant_bytes, "reject programs that embed more bytes of constants than this"),
        ("min_steps", caps.min_steps, "reject a candidate of which fewer steps fit into the budget at peak speed"),
    ):
        flags.DEFINE_integer(name, default, what, lower_bound=0, flag_values=flag_values)
    flags.DEFINE_bool(
        "standby",
        True,
        "start each trial's process while the one before is at work, so that it has imported everything when it is its "
        "turn; --nostandby starts it when it is needed",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "compile_cache",
        f"{CACHE_DIR}/compiled",
        "folder of XLA's compile cache; empty for none",
        flag_values=flag_values,
    )


def define_sandbox_flag(flag_values: flags.FlagValues) -> None:
    """Defines --sandbox."""
    flags.DEFINE_enum(
        "sandbox",
        "auto",
        list(CHOICES),
        "what confines a training file while it is traced: auto takes the best that works here, require the same but "
        "at least landlock, a name that one; `autoresearch doctor` tries them",
        flag_values=flag_values,
    )


def find_sandbox(choice: str, environment: Mapping[str, str]) -> Sandbox:
    """The sandbox of a value of --sandbox.

    Raises:
      SandboxError: it cannot be had.
    """
    return open_sandbox(choice, cache_dir=Path(CACHE_DIR).expanduser(), environment=environment)


def _notice(text: str) -> None:
    print(f"autoresearch: {text}", file=sys.stderr, flush=True)


def find_clock(choice: str, platform: str, notice: Callable[[str], None] = _notice) -> str:
    """The clock of a value of --clock.

    Args:
      choice: the value.
      platform: "cpu", "cuda" or "tpu".
      notice: told in one line why "auto" takes the wall clock on a CPU.

    Raises:
      UsageError: the attended clock cannot be had.
    """
    if platform != "cpu":
        if choice == ATTENDED:
            raise UsageError(
                f"--clock=attended: it counts processor time, and trials run on {platform}: use --clock=wall"
            )
        return WALL
    if choice == WALL:
        return WALL
    try:
        try_accounting().close()
    except AccountingError as error:
        if choice == ATTENDED:
            raise UsageError(f"--clock=attended: {error}: use --clock=wall") from error
        notice(f"{error}: trials are timed by the wall clock, which other work on this machine bends")
        return WALL
    return ATTENDED


@dataclass(frozen=True)
class TaskOptions:
    """The task flags, parsed and checked."""

    dataset: Dataset
    budget: Budget
    platform: str
    mesh_axes: dict[str, int] | None
    judge_tokens: int | None
    sandbox: str
    caps: Caps
    compile_cache_dir: Path | None
    standby: bool
    clock: str
    max_stretch: float

    @classmethod
    def from_flags(cls, flag_values: flags.FlagValues) -> "TaskOptions":
        """Reads the flags.

        Raises:
          UsageError: a flag's value makes no sense.
          DatasetError: the dataset is not there.
        """
        budget = _budget(flag_values.budget_seconds, flag_values.budget_steps)
        judge_tokens = flag_values.judge_tokens
        if judge_tokens is not None and judge_tokens < 1:
            raise UsageError(f"--judge_tokens={judge_tokens}: must be positive")
        wanted = dataset_options(flag_values)
        cache = flag_values.compile_cache
        return cls(
            dataset=Dataset.open(
                wanted.folder,
                sequence_length=wanted.sequence_length,
                vocab_sizes=wanted.vocab_sizes,
                corpus=wanted.corpus,
            ),
            budget=budget,
            platform=flag_values.platform,
            mesh_axes=parse_mesh(flag_values.mesh),
            judge_tokens=judge_tokens,
            sandbox=flag_values.sandbox,
            caps=Caps(
                source_bytes=flag_values.max_source_bytes,
                constant_bytes=flag_values.max_constant_bytes,
                min_steps=flag_values.min_steps,
            ),
            compile_cache_dir=Path(cache).expanduser() if cache else None,
            standby=flag_values.standby,
            clock=flag_values.clock,
            max_stretch=flag_values.max_stretch,
        )

    def make_task(self, run_folder: Path, editable: Path, *, one_trial: bool = False) -> Task:
        """The task, which keeps its programs in the run's folder.

        Args:
          run_folder: made if it is missing.
          editable: the training file; only its name is used.
          one_trial: there will be no other, so that none need be made ready for.

        Raises:
          UserError: the device is not there, or is too small for the mesh; or the sandbox cannot be had.
        """
        environment = dict(os.environ)
        sandbox = find_sandbox(self.sandbox, environment)
        if sandbox.level is Level.LIMITS:
            _notice(UNCONFINED)
        (run_folder / "logs").mkdir(parents=True, exist_ok=True)
        device, mesh_axes = self._find_devices(environment, run_folder / "logs" / "devices.log")
        clock = self._find_clock(device, _notice)
        return open_task(
            LM,
            LmTaskConfig(
                dataset=self.dataset,
                device=device,
                mesh_axes=mesh_axes,
                budget=self.budget,
                clock=clock,
                limits=TimeLimits(max_stretch=self.max_stretch if clock == ATTENDED else 1.0),
                sandbox=sandbox,
                programs_dir=run_folder / "programs",
                environment=environment,
                compile_cache_dir=self.compile_cache_dir,
                editable_name=editable.name,
                judge_tokens=self.judge_tokens,
                caps=self.caps,
                standby_log=run_folder / "logs" / "standby.log" if self.standby and not one_trial else None,
            ),
        )

    def make_terms(self, log_path: Path) -> LmTerms:
        """The terms of the task that `make_task` makes; only an accelerator is asked, in a process.

        Args:
          log_path: for the output of that process.

        Raises:
          UserError: the device is not there, or is too small for the mesh; or the clock cannot be had.
        """
        device, mesh_axes = self._find_devices(os.environ, log_path)
        clock = self._find_clock(device, lambda text: None)
        machine = device_terms(device, mesh_axes, self.budget, clock)
        return LmTerms(self.dataset, self.budget, self.judge_tokens, machine)

    def _find_clock(self, device: Device, notice: Callable[[str], None]) -> str:
        """The clock; a budget in steps is not timed."""
        return WALL if self.budget.steps is not None else find_clock(self.clock, device.platform, notice)

    def _find_devices(self, environment: Mapping[str, str], log_path: Path) -> tuple[Device, dict[str, int]]:
        """The device, and the sizes of the mesh axes."""
        mesh_size = math.prod((self.mesh_axes or {}).values())
        device = find_device(self.platform, mesh_size, environment, log_path)
        if mesh_size > device.num_devices:
            raise UsageError(f"--mesh asks for {mesh_size} devices, there are {device.num_devices}")
        return device, self.mesh_axes or {"data": device.num_devices, "model": 1}


def parse_mesh(text: str) -> dict[str, int] | None:
    """Axis sizes of "data=4,model=2", with 1 for an axis that is not named; None for an empty text.

    Raises:
      UsageError: it is not of that form.
    """
    if not text:
        return None
    axes = dict.fromkeys(MESH_AXES, 1)
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in axes or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--mesh={text}: expected something like data=4,model=2")
        axes[name] = int(size)
    return axes


def _budget(seconds: float | None, steps: int | None) -> Budget:
    if steps is not None:  # wins, since a flag file usually sets the seconds
        if steps < 1:
            raise UsageError(f"--budget_steps={steps}: must be at least 1")
        return Budget(steps=steps)
    seconds = DEFAULT_BUDGET_SECONDS if seconds is None else seconds
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--budget_seconds={seconds:g}: must be positive")
    return Budget(seconds=seconds)
