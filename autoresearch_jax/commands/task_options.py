"""Options of the language-model task: dataset, budget, clock and machine; and the task that they ask for."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.commands.paths import require_text, require_usable_name
from autoresearch_jax.engine.task import Task
from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.sandbox import (
    CHOICES,
    DOCTOR,
    NO_LANDLOCK,
    Level,
    Sandbox,
    SandboxError,
    open_sandbox,
    worker_level,
)
from autoresearch_jax.tasks import open_task
from autoresearch_jax.tasks.lm.accounting import ATTENDED, WALL, AccountingError, try_accounting
from autoresearch_jax.tasks.lm.cage import require_absolute_paths
from autoresearch_jax.tasks.lm.config import TRACE_SECONDS, Caps, LmTaskConfig, TimeLimits
from autoresearch_jax.tasks.lm.device import Device, device_terms, find_trial_device
from autoresearch_jax.tasks.lm.task import LmTask, LmTerms
from autoresearch_jax.types import Budget, Metric

LM = "lm"  # the task that these options configure
MESH_AXES = ("data", "model")
DEFAULT_BUDGET_SECONDS = 300.0  # the original's
MIN_STRETCH = 1.5  # the clock's calibrations, outside of the budget, take 4 % of the wall time even on an idle machine
UNCONFINED = (
    "the training file runs with limits but not confined: it can read this machine's files; "
    "`autoresearch doctor` says how to get a sandbox, --sandbox=require refuses to run without"
)
UNCONFINED_TRIALS = (
    "the training file is confined while it is traced, but the processes that run its programs are not: {why}; "
    "`autoresearch doctor` says more, --sandbox=require refuses to run so"
)
UNCONFINED_SNAPSHOT = (
    "the process that runs the snapshot's programs is not confined: {why}; `autoresearch doctor` says more, "
    "--sandbox=require refuses to run so"
)


def sandbox_option() -> Any:
    """The option --sandbox."""
    return option(
        "auto",
        "what confines a training file while it is traced, and the processes that run its programs: auto takes the "
        "best that works here, require the same but at least landlock, a name that one; `autoresearch doctor` tries "
        "them",
        choices=CHOICES,
        in_run=InRun.FREE,
    )


@dataclass(frozen=True)
class TaskOptions:
    """All that a score depends on beside the training file and its seed, and how trials are carried out."""

    dataset: DatasetOptions = field(default_factory=DatasetOptions)
    budget_seconds: float | None = option(
        None,
        f"training time of one trial in seconds (default: {DEFAULT_BUDGET_SECONDS:g})",
        above=0,
        hint="such as 60",
        in_run=InRun.BOUND,
    )
    budget_steps: int | None = option(
        None, "training steps of one trial, in place of --budget_seconds; repeatable", least=1, in_run=InRun.BOUND
    )
    clock: str = option(
        "auto",
        "what --budget_seconds counts: attended, the time that a trial had the machine and other work on it had not; "
        "wall, all time; auto takes attended on a CPU where the kernel keeps the accounts, else wall",
        choices=("auto", ATTENDED, WALL),
        in_run=InRun.BOUND,
    )
    max_stretch: float = option(
        5.0,
        "end a trial, as timeout, once it has trained for this many times its --budget_seconds by the wall clock",
        least=MIN_STRETCH,
        hint="such as 5; to end trials with their budget by the wall clock, leave it out and use --clock=wall",
        in_run=InRun.FREE,
    )
    platform: str = option("auto", "what to run on", choices=("auto", "cpu", "cuda", "tpu"), in_run=InRun.BOUND)
    mesh: str = option(
        "", "devices of each mesh axis, such as data=4,model=2; empty puts all devices on data", in_run=InRun.BOUND
    )
    judge_tokens: int | None = option(
        None, "number of tokens to judge, about, instead of the whole split", least=1, in_run=InRun.BOUND
    )
    sandbox: str = sandbox_option()
    max_source_bytes: int = option(
        Caps().source_bytes, "reject a training file larger than this", least=0, in_run=InRun.FREE
    )
    max_constant_bytes: int = option(
        Caps().constant_bytes,
        "reject programs that embed more bytes of constants than this",
        least=0,
        in_run=InRun.FREE,
    )
    max_kernel_bytes: int = option(
        Caps().kernel_bytes, "reject programs whose kernels have more bytes than this", least=0, in_run=InRun.FREE
    )
    min_steps: int = option(
        Caps().min_steps,
        "reject a candidate of which fewer steps fit into the budget at peak speed",
        least=0,
        in_run=InRun.FREE,
    )
    trace_seconds: float = option(
        TRACE_SECONDS,
        "end the trace of a training file, as timeout, once it has taken this long, waiting for a processor left out",
        above=0,
        hint="such as 60",
        in_run=InRun.FREE,
    )
    standby: bool = option(
        True,
        "start each trial's process while the one before is at work, so that it has imported everything when it is its "
        "turn; --nostandby starts it when it is needed",
        in_run=InRun.FREE,
    )
    compile_cache: str | None = option(
        None,
        "folder of XLA's compile cache; default: compiled in --cache_dir; empty for none",
        path=True,
        in_run=InRun.MACHINE,
    )

    def __post_init__(self) -> None:
        axes = parse_mesh(self.mesh) or {}
        object.__setattr__(self, "mesh", ",".join(f"{name}={size}" for name, size in axes.items()))

    @property
    def unused(self) -> list[str]:
        """Flags that have no use beside --budget_steps."""
        return [] if self.budget_steps is None else ["budget_seconds", "clock"]

    @property
    def budget(self) -> Budget:
        """Of a trial; steps go before seconds, which flag files usually set."""
        if self.budget_steps is not None:
            return Budget(steps=self.budget_steps)
        return Budget(seconds=DEFAULT_BUDGET_SECONDS if self.budget_seconds is None else self.budget_seconds)

    @property
    def metric(self) -> Metric:
        """What the task measures."""
        return LmTask.metric

    @property
    def compile_cache_dir(self) -> Path | None:
        """XLA's compile cache; None for none."""
        if self.compile_cache is None:
            return self.dataset.caches / "compiled"
        return Path(self.compile_cache) if self.compile_cache else None

    def make_task(self, run_folder: Path, editable: Path, *, one_trial: bool = False, profile: bool = False) -> Task:
        """The task, which keeps its programs in the run's folder.

        Args:
          run_folder: made if it is missing.
          editable: the training file; only its name is used.
          one_trial: True starts no process in advance for a further trial.
          profile: see `LmTaskConfig`.

        Raises:
          UserError: the dataset or the device is not there, the device is too small for the mesh, or the sandbox cannot
            be had.
        """
        environment = dict(os.environ)
        require_absolute_paths(environment)
        require_usable_name("--run_dir", run_folder.absolute(), for_snapshots=True)
        require_usable_name("--cache_dir", self.dataset.caches)
        require_text(run_folder.absolute(), self.dataset.folder, self.compile_cache_dir)
        dataset = self.dataset.open()
        sandbox = find_sandbox(self.sandbox, environment, self.dataset.caches)
        if sandbox.level is Level.LIMITS:
            _notice(UNCONFINED)
        elif sandbox.worker is Level.LIMITS:
            _notice(UNCONFINED_TRIALS.format(why=NO_LANDLOCK))
        trials_dirs = run_folder / "logs", run_folder / "snapshots"
        trials_dirs[0].mkdir(parents=True, exist_ok=True)
        log_path = trials_dirs[0] / "devices.log"
        confined = sandbox.worker is not Level.LIMITS
        device, mesh_axes, is_confined = self._find_devices(environment, log_path, confined=confined)
        if confined and not is_confined:
            why = f"{device.platform} does not answer to a confined process, see {log_path}"
            if self.sandbox != "auto":
                raise SandboxError(f"--sandbox={self.sandbox}: {why}: --sandbox=auto trains without walls")
            _notice(UNCONFINED_TRIALS.format(why=why))
            sandbox = replace(sandbox, worker=Level.LIMITS)
        clock = self._find_clock(device, _notice)
        return open_task(
            LM,
            LmTaskConfig(
                dataset=dataset,
                device=device,
                mesh_axes=mesh_axes,
                budget=self.budget,
                clock=clock,
                limits=TimeLimits(trace=self.trace_seconds, max_stretch=self.max_stretch if clock == ATTENDED else 1.0),
                sandbox=sandbox,
                programs_dir=run_folder / "programs",
                trials_dirs=trials_dirs,
                environment=environment,
                compile_cache_dir=self.compile_cache_dir,
                editable_name=editable.name,
                judge_tokens=self.judge_tokens,
                caps=Caps(self.max_source_bytes, self.max_constant_bytes, self.max_kernel_bytes, self.min_steps),
                profile=profile,
                standby_log=run_folder / "logs" / "standby.log" if self.standby and not one_trial else None,
            ),
        )

    def make_terms(self, log_path: Path) -> LmTerms:
        """The terms of the task that `make_task` makes; only an accelerator is asked, in a process.

        Args:
          log_path: for the output of that process.

        Raises:
          UserError: the dataset or the device is not there, the device is too small for the mesh, or the clock
            cannot be had.
        """
        device, mesh_axes, _ = self._find_devices(os.environ, log_path)
        clock = self._find_clock(device, lambda text: None)
        machine = device_terms(device, mesh_axes, self.budget, clock)
        return LmTerms(self.dataset.open(), self.budget, self.judge_tokens, machine)

    def _find_clock(self, device: Device, notice: Callable[[str], None]) -> str:
        """The clock; a budget in steps is not timed."""
        return WALL if self.budget.steps is not None else find_clock(self.clock, device.platform, notice)

    def _find_devices(
        self, environment: Mapping[str, str], log_path: Path, *, confined: bool = False
    ) -> tuple[Device, dict[str, int], bool]:
        """The device, the sizes of the mesh axes, and whether it answers to a confined process, if that is asked."""
        mesh_axes, size = parse_mesh(self.mesh), mesh_size(self.mesh)
        device, is_confined = find_trial_device(self.platform, size, environment, log_path, confined=confined)
        if size is not None and size > device.num_devices:
            raise UsageError(f"--mesh asks for {size} devices, there are {device.num_devices}")
        return device, mesh_axes or {"data": device.num_devices, "model": 1}, is_confined


def find_sandbox(choice: str, environment: Mapping[str, str], cache_dir: Path) -> Sandbox:
    """The sandbox of a value of --sandbox.

    Raises:
      SandboxError: it cannot be had.
    """
    return open_sandbox(choice, cache_dir=cache_dir, environment=environment)


def confines_snapshots(choice: str) -> bool:
    """Whether, by a value of --sandbox, processes that run a snapshot's programs are confined; says so if not.

    Raises:
      SandboxError: they must be, and cannot.
    """
    if worker_level(choice) is not Level.LIMITS:
        return True
    if choice in ("require", Level.LANDLOCK):
        raise SandboxError(f"--sandbox={choice}: {NO_LANDLOCK}; {DOCTOR}")
    _notice(UNCONFINED_SNAPSHOT.format(why=f"--sandbox={choice}" if choice == Level.LIMITS else NO_LANDLOCK))
    return False


def _notice(text: str) -> None:
    print(f"autoresearch: {text}", file=sys.stderr, flush=True)


def find_clock(choice: str, platform: str, notice: Callable[[str], None] = _notice) -> str:
    """The clock of a value of --clock.

    Args:
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


def mesh_size(text: str) -> int | None:
    """How many devices a value of --mesh asks for; None for all that there are."""
    axes = parse_mesh(text)
    return None if axes is None else math.prod(axes.values())
