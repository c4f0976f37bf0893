"""What defines a language-model task and one trial of it: settings, caps, time limits, the request. Loads no JAX."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.executors.places import ANYWHERE, Place
from autoresearch_jax.sandbox.accounting import WALL
from autoresearch_jax.sandbox.sandbox import ProcessLimits, Sandbox
from autoresearch_jax.tasks.lm.channel import Gathering
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device
from autoresearch_jax.tasks.lm.hosts import Hosts
from autoresearch_jax.types import UNKNOWN_COMPILE_COST, Budget, CompileCost, LossLimit, Scrutiny, Status

KIBIBYTE = 1 << 10

MEASURE, JUDGE_AGAIN = "measure", "judge again"  # what a trial's process can be asked to do with a request
FOLLOW = "follow"  # what it can be asked on another host than the first
TIME_REFERENCE = "time reference"  # and without one: processor seconds of the reference program
SCORE_SNAPSHOT, SAMPLE = "score snapshot", "sample"  # and about a snapshot, see `verification.py`
SNAPSHOT_BEGINS = "snapshot begins"  # the event after which a process of these reads the snapshot
SNAPSHOT, JUDGE, JUDGE_HOLDOUT = "snapshot", "judge", "judge holdout"  # phases of a trial, as its events name them
JUDGE_PHASES = (JUDGE, JUDGE_HOLDOUT)
SPLIT = "val"  # what a run is judged on
PROFILED_STEPS = 10  # of a trial that is profiled
PROFILE = "profile"  # where its trace is, in its log folder; and among the metrics, how many steps were traced

# Before a keep judging may take this many times as long: it scores all rows five times, and again to explain a failure.
EVERY_ROW_SLOWDOWN = 7.0
COMPILE_SLOWDOWN = 3.0  # beside the champion
TRACE_SECONDS = 60.0  # the default file takes 6
TRACE_PROCESSORS = 3.0  # that a trace may use at a time, on average


@dataclass(frozen=True)
class Caps:
    """Limits of a candidate's source and programs."""

    source_bytes: int = 256 * KIBIBYTE  # of the training file as UTF-8
    constant_bytes: int = 64 * KIBIBYTE  # of all programs together: no room for a table of answers
    kernel_bytes: int = 256 * KIBIBYTE  # of all programs' kernels; those of the default file for a TPU have 100 KiB
    min_steps: int = 10  # that must fit into the budget at the device's peak speed


@dataclass(frozen=True)
class TimeLimits:
    """Seconds after which a phase of a trial is killed; a trace's are those in which it did not wait for a processor.

    Training ends by itself, as a time-out, after `max_stretch` times its budget by the wall clock, and is killed
    `train_slack` later. `judge` is for one split with a sample of probes. A process that is silent for longer than
    `silence` allows is killed, too: with a budget in steps, training has `train_report` from one report to the next.

    Free of charge are `free_share` of a budget in seconds, at least `least_free`, for `init`, and as much for judging,
    which may take longer only at the speed of training (see `judging.py`); with a budget in steps, judging may take
    `free_judge`. Compiling is free for `free_compile`, or for several times what the champion took.
    """

    startup: float = 120.0
    trace: float = TRACE_SECONDS
    check: float = 120.0
    compile: float = 900.0
    init: float = 120.0
    max_stretch: float = 1.0
    train_slack: float = 120.0
    train_report: float = 600.0
    snapshot: float = 600.0
    judge: float = 1800.0
    judge_slack: float = 60.0
    free_share: float = 0.02
    least_free: float = 1.0
    free_judge: float = 10.0
    free_compile: float = 60.0

    def of(self, phase: str, budget: Budget, scrutiny: Scrutiny = Scrutiny.SEARCH) -> float:
        """Limit of a phase; training by steps has none as a whole."""
        if phase in JUDGE_PHASES:
            return self.judge if scrutiny is Scrutiny.SEARCH else EVERY_ROW_SLOWDOWN * self.judge
        if phase == "train":
            return math.inf if budget.seconds is None else self.max_stretch * budget.seconds + self.train_slack
        return float(getattr(self, phase))

    def silence(self, phase: str, budget: Budget, min_steps: int, own_limit: float | None) -> float:
        """Limit from one report of a phase to the next, for programs that never end.

        Args:
          phase: its name.
          budget: of the trial.
          min_steps: that must fit into it, so that no honest step takes longer than its share of the budget.
          own_limit: seconds that the trial's process itself allows for judging, looked at after each batch.
        """
        if phase == "train" and budget.seconds is None:
            return self.train_report
        if phase == "train" and budget.seconds is not None:
            return self.max_stretch * budget.seconds / max(min_steps, 1) + self.train_slack
        return math.inf if own_limit is None else own_limit + self.judge_slack

    def free(self, budget: Budget) -> float:
        """Seconds of judging that are free of charge, and of `init` where the budget is one in seconds."""
        return self.free_judge if budget.seconds is None else max(self.least_free, self.free_share * budget.seconds)

    def charged_compile(self, seconds: float, cost: CompileCost) -> float:
        """Seconds that compiling for so long takes off a budget; a compile cache must not change them."""
        if cost.charged is not None:
            return cost.charged
        return max(0.0, seconds - max(self.free_compile, COMPILE_SLOWDOWN * (cost.champion or 0.0)))


class TrialFailedError(Exception):
    """The candidate failed, with this status; not a mistake of ours."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class MeasureRequest:
    """One trial as data, for the process that runs it. For fields not listed see `LmTaskConfig`.

    Attributes:
      program_hash: what the programs in `programs_dir` must hash to.
      seed: all randomness of the trial follows from it.
      reference_seconds: processor seconds of the reference program when the run began; None to measure them now.
      snapshot_dir: where the snapshot will be; for judging again, where it is.
      log_dir: where the loss curve and the nats of each token go.
      reference_log_dirs: the same of other candidates' trials.
      compile_cost: what earlier trials say about it.
      device_memory_bytes: of one device, on a CPU of the machine; None where it is not known.
      facts: further facts for the snapshot's manifest; a snapshot with others is not judged again.
      stop_above: training ends as `pruned` where its loss, in bits per byte, is above one of these.
      profile: whether some steps are traced, to a folder PROFILE in `log_dir`.
      files: arguments of `linux.restrict_files`, to which the process adds its scratch folder and confines itself
        before it reads the programs; None where it is not confined.
      hosts: whom it meets before it looks at a device; None where this host has all devices.
    """

    programs_dir: str
    program_hash: str
    dataset_folder: str
    sequence_length: int
    judge_tokens: int | None
    scrutiny: Scrutiny
    seed: int
    budget: Budget
    clock: str
    reference_seconds: float | None
    snapshot_dir: str
    log_dir: str
    device_memory_bytes: int | None
    min_steps: int
    limits: TimeLimits
    facts: Mapping[str, Any]
    stop_above: Sequence[LossLimit] = ()
    reference_log_dirs: Sequence[str] = ()
    compile_cost: CompileCost = UNKNOWN_COMPILE_COST
    profile: bool = False
    files: Mapping[str, Any] | None = None
    hosts: Gathering | None = None

    def to_json(self, operation: str) -> dict[str, Any]:
        """The message that asks for `MEASURE` or `JUDGE_AGAIN`."""
        return {"op": operation, **asdict(self)}

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> "MeasureRequest":
        fields = {name: value for name, value in message.items() if name != "op"}
        read = {
            "budget": Budget(**fields["budget"]),
            "scrutiny": Scrutiny(fields["scrutiny"]),
            "limits": TimeLimits(**fields["limits"]),
            "stop_above": tuple(LossLimit(**limit) for limit in fields["stop_above"]),
            "compile_cost": CompileCost(**fields["compile_cost"]),
            "hosts": None if fields["hosts"] is None else Gathering(**fields["hosts"]),
        }
        return cls(**{**fields, **read})


@dataclass(frozen=True)
class SampleSettings:
    """How to draw: temperature 0 takes the likeliest token, top_k 0 draws from all."""

    prompt: str = ""
    num_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 50
    seed: int = 0


@dataclass(frozen=True)
class LmTaskConfig:
    """What defines the task.

    Attributes:
      mesh_axes: sizes of the mesh axes "data" and "model".
      clock: "attended" or "wall", by which a budget in seconds is counted.
      programs_dir: where traced programs are kept, a folder for each hash.
      trials_dirs: folders in which trials have their logs and snapshots; a confined process writes nowhere else.
      environment: variables of this process; the trace inherits an allow-listed few of them.
      compile_cache_dir: for XLA's persistent cache; None for none.
      editable_name: file name of the training file, for messages.
      judge_tokens: judge about this many tokens from a split's start; None judges all of it.
      trace_limits: what a trace may use; its time is `limits.trace`.
      profile: whether some steps of each trial are traced, see `MeasureRequest`; its score is not to be compared.
      standby_log: where the next trial's process prints while it waits; None to have none.
      place: what of this machine trials have.
      other_places: for further tasks of this kind, see `engine.task.PlaceableTask`.
      hosts: that have a part of the mesh beside this one; None where this one has all of it.
    """

    dataset: Dataset
    device: Device
    mesh_axes: Mapping[str, int]
    budget: Budget
    sandbox: Sandbox
    programs_dir: Path
    environment: Mapping[str, str]
    trials_dirs: Sequence[Path]
    compile_cache_dir: Path | None = None
    clock: str = WALL
    editable_name: str = "train_lib.py"
    judge_tokens: int | None = None
    limits: TimeLimits = field(default_factory=TimeLimits)
    trace_limits: ProcessLimits = field(default_factory=ProcessLimits)
    caps: Caps = field(default_factory=Caps)
    profile: bool = False
    standby_log: Path | None = None
    place: Place = ANYWHERE
    other_places: Sequence[Place] = ()
    hosts: Hosts | None = None

    @property
    def num_hosts(self) -> int:
        """How many hosts share the mesh."""
        return 1 if self.hosts is None else self.hosts.num_hosts

    @property
    def host_devices(self) -> int:
        """Devices of the mesh that this host has."""
        return math.prod(self.mesh_axes.values()) // self.num_hosts
