"""Everything that defines a language-model task. Loads no JAX."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.sandbox.sandbox import Limits, Sandbox
from autoresearch_jax.tasks.lm.caps import Caps
from autoresearch_jax.tasks.lm.clock import WALL
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device
from autoresearch_jax.tasks.lm.limits import TimeLimits
from autoresearch_jax.types import Budget


@dataclass(frozen=True)
class LmTaskConfig:
    """Everything that defines the task.

    Attributes:
      dataset: what to train and judge on.
      device: what to run on.
      mesh_axes: sizes of the mesh axes "data" and "model".
      budget: the time box.
      clock: "attended" or "wall", by which a budget in seconds is counted.
      sandbox: where a candidate is traced.
      programs_dir: where traced programs are kept, a folder for each hash.
      environment: variables of this process; the trace inherits an allow-listed few of them.
      compile_cache_dir: for XLA's persistent cache; None for none.
      editable_name: file name of the training file, for messages.
      split: what is judged: "val". An audit judges the holdout besides, see `Scrutiny`.
      judge_tokens: judge about so many tokens of a split; None judges all of it.
      limits: when a phase is killed.
      trace_limits: what a trace may use; its time is `limits.trace`.
      caps: what a candidate must not exceed.
      standby_log: where the next trial's process prints while it waits beside a trial; None to start it when it is
        needed.
    """

    dataset: Dataset
    device: Device
    mesh_axes: Mapping[str, int]
    budget: Budget
    sandbox: Sandbox
    programs_dir: Path
    environment: Mapping[str, str]
    compile_cache_dir: Path | None = None
    clock: str = WALL
    editable_name: str = "train_lib.py"
    split: str = "val"
    judge_tokens: int | None = None
    limits: TimeLimits = field(default_factory=TimeLimits)
    trace_limits: Limits = field(default_factory=Limits)
    caps: Caps = field(default_factory=Caps)
    standby_log: Path | None = None
