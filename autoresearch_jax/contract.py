"""What `train_lib.py` and the harness agree on: the TaskSpec it is given, the Experiment it returns.

This is all that a training file must import from us; `autoresearch_jax.kernels` is optional. The file is traced once,
without data, clock or network; see `docs/reference/contract.md` for the rules in full.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

State = Any  # any pytree of arrays
Init = Callable[[Any], State]
Step = Callable[[State, Any, Any], tuple[State, Mapping[str, Any]]]
Logits = Callable[[State, Any], Any]


@dataclass(frozen=True)
class TaskSpec:
    """What the candidate may know about the task and the machine it is traced for.

    Attributes:
      vocab_sizes: vocabulary sizes the dataset offers; the candidate picks one. Token id `vocab_size - 1` is
        BOS, which starts every document. The other ids are permuted anew in each trial: nothing can be known of them.
      sequence_length: T, the number of tokens the judge gives `logits` as context.
      platform: what the programs are traced for: "cpu", "cuda" or "tpu".
      device_kind: the device's own name, such as "NVIDIA H100 80GB HBM3".
      num_devices: devices in the mesh.
      device_memory_bytes: memory of one device in bytes; None where it is not known.
      budget_seconds: the time box in seconds; None when the budget is counted in steps.
      budget_steps: the time box in steps; None when the budget is counted in seconds.
    """

    vocab_sizes: tuple[int, ...]
    sequence_length: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    num_devices: int = 1
    device_memory_bytes: int | None = None
    budget_seconds: float | None = None
    budget_steps: int | None = None


@dataclass(frozen=True)
class Phase:
    """A part of training with its own step and batch shape, for schedules of batch or context sizes.

    Attributes:
      from_progress: the phase begins when progress (0 to 1) reaches this.
      step: see `Experiment.step`.
      batch_shape: (rows, context + 1); the context must divide `TaskSpec.sequence_length`.
    """

    from_progress: float
    step: Step
    batch_shape: tuple[int, int]


@dataclass(frozen=True)
class Experiment:
    """Three pure functions, and the shapes to trace them with.

    Attributes:
      init: `init(key) -> state`, any pytree of arrays, from a typed PRNG key.
      step: `step(state, tokens, progress) -> (state, metrics)`. `tokens` is int32[rows, context + 1], of which
        `[:, :-1]` are inputs and `[:, 1:]` targets; `progress` is float32[], elapsed share of the budget from
        0 to 1. The returned state has the structure, shapes and dtypes of the given one. `metrics` is a dict of
        scalars that holds "loss", in nats per token; a loss that is not finite ends the trial.
      logits: `logits(state, tokens) -> float[b, t, vocab_size]` for int32[b, t] tokens: what the judge scores.
        Position i sees tokens 0 to i only, and each row of the batch only itself.
      vocab_size: one of `TaskSpec.vocab_sizes`.
      batch_shape: (rows, context + 1) of one step's tokens; the context must divide `TaskSpec.sequence_length`.
      state_sharding: a pytree of `jax.sharding.PartitionSpec` with the structure of the state, over the mesh axes
        "data" and "model"; None replicates everything.
      later_phases: what follows `step`, in order of `from_progress`; each is compiled ahead.
      model_flops_per_token: floating point operations of one training token, forward and backward, by the
        candidate's own count; shown as MFU, used for nothing else.
    """

    init: Init
    step: Step
    logits: Logits
    vocab_size: int
    batch_shape: tuple[int, int]
    state_sharding: Any = None
    later_phases: tuple[Phase, ...] = field(default=())
    model_flops_per_token: float | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases, the first beginning at progress 0."""
        return (Phase(0.0, self.step, self.batch_shape), *self.later_phases)
