"""Options of the tasks: which one, dataset, budget, clock and machine; and the task that they ask for."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.machine_options import (
    UNCONFINED,
    UNCONFINED_TRIALS,
    HostOptions,
    WorkerOptions,
    notice,
    sandbox_option,
)
from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.commands.paths import require_text, require_usable_name
from autoresearch_jax.engine.task import Task, Terms
from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.places import ANYWHERE, Place
from autoresearch_jax.sandbox.accounting import ATTENDED, WALL, AccountingError, try_accounting
from autoresearch_jax.sandbox.sandbox import NO_LANDLOCK, Level, SandboxError, open_sandbox
from autoresearch_jax.tasks import open_task
from autoresearch_jax.tasks.command.programs import TaskFiles
from autoresearch_jax.tasks.command.task import CommandTaskConfig, CommandTerms
from autoresearch_jax.tasks.command.task_file import TaskFile, read_task_file
from autoresearch_jax.tasks.lm.cage import require_absolute_paths
from autoresearch_jax.tasks.lm.config import TRACE_SECONDS, Caps, LmTaskConfig, TimeLimits
from autoresearch_jax.tasks.lm.device import Device, device_terms, find_trial_device
from autoresearch_jax.tasks.lm.hosts import Hosts
from autoresearch_jax.tasks.lm.task import LmTask, LmTerms
from autoresearch_jax.types import Budget, Metric

LM, COMMAND = "lm", "command"
DEFAULT_EDITABLE = Path("./train_lib.py")
DEFAULT_TASK_FILE = Path("./task.toml")
MESH_AXES = ("data", "model")
DEFAULT_BUDGET_SECONDS = 300.0  # the original's
MIN_STRETCH = 1.5  # the clock's calibrations, outside of the budget, take 4 % of the wall time even on an idle machine


@dataclass(frozen=True)
class TaskOptions:
    """All that a score depends on beside the training file and its seed, and how trials are carried out."""

    name: str = option(
        LM,
        "what is searched: lm trains a language model, command is what --task_file says",
        flag="task",
        choices=(LM, COMMAND),
        in_run=InRun.BOUND,
    )
    task_file: Path = option(
        DEFAULT_TASK_FILE,
        "for --task=command: the file that names the asset, its commands, the evaluator and the metric; see "
        "docs/guide/command-task.md",
        in_run=InRun.BOUND,
    )
    dataset: DatasetOptions = field(default_factory=DatasetOptions)
    budget_seconds: float | None = option(
        None,
        f"training time of one trial in seconds (default: {DEFAULT_BUDGET_SECONDS:g}; with --task=command what "
        "task.toml says)",
        above=0,
        hint="such as 60",
        in_run=InRun.BOUND,
    )
    budget_steps: int | None = option(
        None,
        "training steps of one trial, in place of --budget_seconds; on a CPU the same seed gives the same score then",
        least=1,
        in_run=InRun.BOUND,
    )
    clock: str = option(
        "auto",
        "what --budget_seconds counts: attended, the time that a trial had the machine, without what other work took; "
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
    hosts: HostOptions = field(default_factory=HostOptions)
    workers: WorkerOptions = field(default_factory=WorkerOptions)
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
        if self.is_command and self.budget_steps is not None:
            raise UsageError("--budget_steps: --task=command has a budget in seconds: use --budget_seconds")
        if self.is_command and self.hosts.num_hosts > 1:
            raise UsageError("--num_hosts: --task=command runs on one: leave it out")
        axes = parse_mesh(self.mesh) or {}
        object.__setattr__(self, "mesh", ",".join(f"{name}={size}" for name, size in axes.items()))

    @property
    def is_command(self) -> bool:
        """Whether the task is what a task.toml says."""
        return self.name == COMMAND

    @property
    def command(self) -> TaskFile:
        """What task.toml says.

        Raises:
          TaskFileError: it cannot be used.
        """
        return read_task_file(self.task_file)

    def editable(self, given: Path) -> Path:
        """The file to edit, of a value of --editable: task.toml names it where there is one.

        Raises:
          UsageError: another one is given; or as of `command`.
        """
        if not self.is_command:
            return given
        named = self.task_file.parent / self.command.asset.file
        if given not in (DEFAULT_EDITABLE, named) and given.resolve() != named.resolve():
            raise UsageError(f"--editable={given}: {self.task_file} names {named}: leave it out")
        return named

    def require(self) -> None:
        """Refuses a task that cannot be opened, before anything is made of a run.

        Raises:
          UserError: the dataset is not there, or task.toml cannot be used.
        """
        if self.is_command:
            read_task_file(self.task_file)
        else:
            self.dataset.open()

    @property
    def unused(self) -> list[str]:
        """Flags that have no use beside --budget_steps."""
        return [] if self.budget_steps is None else ["budget_seconds", "clock"]

    @property
    def budget(self) -> Budget:
        """Of a trial; steps go before seconds, which flag files usually set."""
        if self.budget_steps is not None:
            return Budget(steps=self.budget_steps)
        if self.budget_seconds is None and self.is_command:
            return Budget(seconds=self.command.budget.seconds)
        return Budget(seconds=DEFAULT_BUDGET_SECONDS if self.budget_seconds is None else self.budget_seconds)

    @property
    def metric(self) -> Metric:
        """What the task measures."""
        return self.command.what_is_measured if self.is_command else LmTask.metric

    @property
    def asset(self) -> AssetKind:
        """The kind of the file to edit."""
        return self.command.asset_kind if self.is_command else LmTask.asset

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
        if self.is_command:
            return self._make_command_task(run_folder)
        environment = dict(os.environ)
        require_absolute_paths(environment)
        require_usable_name("--run_dir", run_folder.absolute(), for_snapshots=True)
        require_usable_name("--cache_dir", self.dataset.caches)
        require_text(run_folder.absolute(), self.dataset.folder, self.compile_cache_dir)
        dataset = self.dataset.open()
        sandbox = open_sandbox(self.sandbox, cache_dir=self.dataset.caches, environment=environment)
        if sandbox.level is Level.LIMITS:
            notice(UNCONFINED)
        elif sandbox.worker is Level.LIMITS:
            notice(UNCONFINED_TRIALS.format(why=NO_LANDLOCK))
        trials_dirs = run_folder / "logs", run_folder / "snapshots"
        trials_dirs[0].mkdir(parents=True, exist_ok=True)
        log_path = trials_dirs[0] / "devices.log"
        confined = sandbox.worker is not Level.LIMITS
        hosts = self.hosts.open(self.platform, mesh_size(self.mesh), self.workers.workers)
        device, mesh_axes, places, is_confined = self._find_devices(environment, log_path, hosts, confined=confined)
        if confined and not is_confined:
            why = f"{device.platform} does not answer to a confined process, see {log_path}"
            if self.sandbox != "auto":
                raise SandboxError(f"--sandbox={self.sandbox}: {why}: --sandbox=auto trains without walls")
            notice(UNCONFINED_TRIALS.format(why=why))
            sandbox = replace(sandbox, worker=Level.LIMITS)
        clock = self._find_clock(device, notice)
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
                environment={**environment, **places[0].variables},
                compile_cache_dir=self.compile_cache_dir,
                editable_name=editable.name,
                judge_tokens=self.judge_tokens,
                caps=Caps(self.max_source_bytes, self.max_constant_bytes, self.max_kernel_bytes, self.min_steps),
                profile=profile,
                standby_log=run_folder / "logs" / "standby.log" if self.standby and not one_trial else None,
                place=places[0],
                other_places=places[1:],
                hosts=hosts,
            ),
        )

    def _make_command_task(self, run_folder: Path) -> Task:
        environment = dict(os.environ)
        places = self.workers.processor_places()
        sandbox = open_sandbox(self.sandbox, cache_dir=self.dataset.caches, environment=environment)
        if sandbox.level is Level.LIMITS:
            notice(UNCONFINED)
        return open_task(
            COMMAND,
            CommandTaskConfig(
                task=self.command,
                budget_seconds=self.budget.seconds or 0.0,
                sandbox=sandbox,
                environment=environment,
                programs_dir=(run_folder / "programs").absolute(),
                clock=find_clock(self.clock, "cpu"),
                max_stretch=self.max_stretch,
                place=places[0],
                other_places=places[1:],
            ),
        )

    def make_terms(self, log_path: Path) -> Terms:
        """The terms of the task that `make_task` makes; only an accelerator is asked, in a process.

        Args:
          log_path: for the output of that process.

        Raises:
          UserError: the dataset or the device is not there, the device is too small for the mesh, or the clock
            cannot be had.
        """
        if self.is_command:
            task, clock = self.command, find_clock(self.clock, "cpu", lambda text: None)
            with self.workers.processor_places()[0].taken():
                return CommandTerms.of(task, TaskFiles(task), self.budget.seconds or 0.0, clock)
        hosts = self.hosts.open(self.platform, mesh_size(self.mesh), self.workers.workers)
        device, mesh_axes, places, _ = self._find_devices(os.environ, log_path, hosts)
        clock = self._find_clock(device, lambda text: None)
        with places[0].taken():
            machine = device_terms(device, mesh_axes, self.budget, clock, self.hosts.num_hosts)
        return LmTerms(self.dataset.open(), self.budget, self.judge_tokens, machine)

    def find_places(self, log_path: Path) -> Sequence[Place]:
        """What of this machine each worker has; arguments and errors are those of `make_terms`."""
        if self.is_command:
            return self.workers.processor_places()
        return [ANYWHERE] if self.hosts.num_hosts > 1 else self._find_devices(os.environ, log_path, None)[2]

    def _find_clock(self, device: Device, notice: Callable[[str], None]) -> str:
        """The clock; a budget in steps is not timed."""
        return WALL if self.budget.steps is not None else find_clock(self.clock, device.platform, notice)

    def _find_devices(
        self, environment: Mapping[str, str], log_path: Path, hosts: Hosts | None, *, confined: bool = False
    ) -> tuple[Device, dict[str, int], Sequence[Place], bool]:
        """Device and mesh of one worker, the places of all, and whether a confined process is answered, if asked."""
        mesh_axes, size = parse_mesh(self.mesh), mesh_size(self.mesh)
        device, is_confined = find_trial_device(
            self.platform, size, environment, log_path, confined=confined, hosts=hosts
        )
        if size is not None and size > device.num_devices:
            raise UsageError(f"--mesh asks for {size} devices, there are {device.num_devices}")
        if hosts is not None:
            if size not in (None, device.num_devices):
                raise UsageError(f"--mesh asks for {size} devices, the hosts have {device.num_devices}: take all")
            return device, mesh_axes or {"data": device.num_devices, "model": 1}, [ANYWHERE], is_confined
        places, own = self.workers.divide(device, environment, size)
        return own, mesh_axes or {"data": own.num_devices, "model": 1}, places, is_confined


def find_clock(choice: str, platform: str, notice: Callable[[str], None] = notice) -> str:
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
