"""What the driver and the trial's process say to each other, one JSON object a line."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autoresearch_jax.types import Budget, Ceiling, Scrutiny

MEASURE, JUDGE_AGAIN = "measure", "judge again"  # what a trial's process can be asked to do with a request
TIME_REFERENCE = "time reference"  # and without one: processor seconds of the reference program
SNAPSHOT, JUDGE, JUDGE_HOLDOUT = "snapshot", "judge", "judge holdout"  # phases of a trial, as its events name them
JUDGE_PHASES = (JUDGE, JUDGE_HOLDOUT)


@dataclass(frozen=True)
class MeasureRequest:
    """One trial, complete: the process that gets it needs nothing else.

    Attributes:
      programs_dir: folder of the traced programs.
      program_hash: what they must hash to.
      dataset_folder: folder of the dataset.
      sequence_length: T.
      split: what is judged, "val".
      judge_tokens: judge about this many tokens from a split's start; None judges all of it.
      scrutiny: whether every row is probed, and whether the holdout is judged, too.
      seed: all randomness of the trial follows from it.
      budget: the time box.
      clock: "attended" or "wall", by which a budget in seconds is counted.
      reference_seconds: processor seconds of the reference program when the run began; None to measure them now.
      max_stretch: training ends as a time-out after this many times the budget by the wall clock.
      snapshot_dir: where the snapshot will be; for judging again, where it is.
      log_dir: where the loss curve goes.
      device_memory_bytes: of one device, on a CPU of the machine; None where it is not known.
      min_steps: reject a candidate of which fewer fit into the budget.
      free_init_seconds: what `init` takes longer is charged to a budget in seconds, lest it be used to train.
      free_judge_seconds: judging may take so long, whatever training took.
      facts: further facts for the snapshot's manifest; a snapshot with others is not judged again.
      stop_above: training ends as `pruned` where its loss, in bits per byte, is above one of these.
    """

    programs_dir: str
    program_hash: str
    dataset_folder: str
    sequence_length: int
    split: str
    judge_tokens: int | None
    scrutiny: Scrutiny
    seed: int
    budget: Budget
    clock: str
    reference_seconds: float | None
    max_stretch: float
    snapshot_dir: str
    log_dir: str
    device_memory_bytes: int | None
    min_steps: int
    free_init_seconds: float
    free_judge_seconds: float
    facts: Mapping[str, Any]
    stop_above: Sequence[Ceiling] = ()

    def to_json(self, operation: str) -> dict[str, Any]:
        """The message that asks for `MEASURE` or `JUDGE_AGAIN`."""
        return {"op": operation, **asdict(self)}

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> "MeasureRequest":
        fields = {name: value for name, value in message.items() if name != "op"}
        read = {
            "budget": Budget(**fields["budget"]),
            "scrutiny": Scrutiny(fields["scrutiny"]),
            "stop_above": tuple(Ceiling(**ceiling) for ceiling in fields["stop_above"]),
        }
        return cls(**{**fields, **read})
