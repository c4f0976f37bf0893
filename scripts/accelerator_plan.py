"""The parts of check_accelerator.py: what each needs and may take, and its sizes by platform. Loads no JAX."""

import ast
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = ("cpu", "cuda", "tpu")

# Packages by import name. A trial imports what proposes, too: one command line has the flags of both.
_TRACE = ("jax", "flax", "optax", "numpy")
_CORPUS = ("absl", "numpy", "rustbpe", "tiktoken", "pyarrow", "rich")
_TRIAL = (*_TRACE, *_CORPUS, "flatbuffers", "grain", "libcst", "markdown_it", "optuna", "orbax", "packaging", "scipy")


@dataclass(frozen=True)
class PartPlan:
    """A part of the check.

    Attributes:
      name: as --only has it.
      needs: packages without which it is left out.
      after: parts that must have run before; they are run if they were not asked for.
      seconds: its share of the time in a full check, a quick one and one on a CPU.
    """

    name: str
    needs: Sequence[str]
    after: Sequence[str]
    seconds: tuple[float, float, float]


# In this order. Later ones may use the time that a part leaves. The seconds of a full check add up to 8 minutes,
# those of a quick one to 3 without what it leaves out, those on a CPU to 4.
PARTS = (
    PartPlan("environment", ("jax",), (), (15, 12, 20)),
    PartPlan("kernels", ("jax", "numpy"), ("environment",), (50, 25, 30)),
    PartPlan("export", _TRACE, (), (12, 12, 20)),
    PartPlan("corpus", _CORPUS, (), (25, 13, 15)),
    PartPlan("step", _TRACE, ("environment",), (90, 55, 35)),
    PartPlan("device", _TRACE, ("environment",), (15, 15, 10)),
    PartPlan("trial", _TRIAL, ("environment", "corpus"), (80, 27, 15)),
    PartPlan("judge", _TRIAL, ("environment", "corpus"), (20, 16, 15)),
    PartPlan("repeat", _TRIAL, ("environment", "corpus"), (35, 30, 20)),
    PartPlan("run", _TRIAL, ("environment", "corpus"), (90, 32, 25)),
    PartPlan("standby", _TRIAL, ("environment", "corpus"), (23, 30, 20)),
    PartPlan("workers", _TRIAL, ("environment", "corpus"), (25, 25, 15)),
)
QUICK_LEAVES_OUT = ("export", "device", "repeat", "standby", "workers")  # unless --only names them
PART_NAMES = tuple(part.name for part in PARTS)

# The original takes 45.1 GB for micro-batches of 128 rows; a share of the memory is left for what else is there.
ORIGINAL_BYTES, ORIGINAL_ROWS = 45.1e9, 128
MEMORY_SHARE = 0.9
LEAST_ROWS = 4
FIRST_WITH_BFLOAT16 = (8, 0)  # compute capability of Ampere

# A model that compiles in seconds on two cores; its widths fit no kernel of an accelerator.
TINY: Mapping[str, Any] = {
    "DEPTH": 2,
    "ASPECT_RATIO": 12,
    "HEAD_DIM": 8,
    "VOCAB_SIZE": 320,
    "VALUE_GATE_CHANNELS": 4,
    "COMPUTE_DTYPE": "float32",
    "BATCH_SIZE": 8,
    "GRADIENT_ACCUMULATION": 2,
    "MUON_ITERATIONS": 2,
}
TINIER: Mapping[str, Any] = {**TINY, "DEPTH": 1, "VOCAB_SIZE": 256, "GRADIENT_ACCUMULATION": 1}


@dataclass(frozen=True)
class DeviceFacts:
    """What the part `environment` found; the defaults are for a part that runs without it.

    Attributes:
      kind: the device's own name.
      count: how many JAX sees.
      memory_bytes: what a process may use of one; None where JAX does not tell.
      capability: NVIDIA's compute capability; None elsewhere.
    """

    kind: str = "cpu"
    count: int = 1
    memory_bytes: int | None = None
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Configuration:
    """A configuration of train_lib.py.

    Attributes:
      name: "original" (configs/h100.flags) or "small" (train_lib.py as it stands).
      flagfile: its name in configs/.
      constants: of the training file, where it has others.
      sequence_length: T.
    """

    name: str
    flagfile: str
    constants: Mapping[str, Any]
    sequence_length: int

    @property
    def vocab_size(self) -> int:
        return int(self.constants["VOCAB_SIZE"])

    def source(self) -> str:
        """train_lib.py with the constants set at its end: its functions read them when they are called.

        Unlike `search.constants.set_constants` this does without libcst.
        """
        lines = [f"{name} = {value!r}" for name, value in self.constants.items()]
        return "\n".join([(ROOT / "train_lib.py").read_text(encoding="utf-8"), *lines, ""])


@dataclass(frozen=True)
class Plan:
    """What all parts are told.

    Attributes:
      platform: "cpu", "cuda" or "tpu".
      quick: shorter budgets, fewer cases.
      work: a folder that all parts share and that is removed in the end.
      device: see `DeviceFacts`.
    """

    platform: str
    quick: bool
    work: str
    device: DeviceFacts = field(default_factory=DeviceFacts)

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def tiny(self) -> bool:
        """Whether only the way is tried, at sizes that tell nothing of speed."""
        return self.platform == "cpu"

    @property
    def mesh_devices(self) -> int:
        """Devices that train: one GPU, of a TPU VM's chips a power of two."""
        return 1 if self.platform != "tpu" else 1 << (self.device.count.bit_length() - 1)

    def pick(self, full: Any, quick: Any, tiny: Any) -> Any:
        """The value for this platform and length."""
        return tiny if self.tiny else quick if self.quick else full

    def configurations(self) -> tuple[Configuration, Configuration]:
        """The original's setting, its batch scaled to the memory, and the small one."""
        constants, length = read_flagfile(ROOT / "configs" / "h100.flags")
        dtype = {}
        if self.device.capability is not None and tuple(self.device.capability) < FIRST_WITH_BFLOAT16:
            dtype = {"COMPUTE_DTYPE": "float32"}
        small = {"VOCAB_SIZE": 2048, **dtype}
        if self.tiny:
            return (
                Configuration("original", "h100.flags", {**constants, **TINY}, 128),
                Configuration("small", "cpu.flags", TINIER, 64),
            )
        rows = micro_batch_rows(self.device.memory_bytes, int(constants["BATCH_SIZE"]) // 2)
        constants |= {"BATCH_SIZE": 2 * rows * self.mesh_devices, "GRADIENT_ACCUMULATION": 2, **dtype}
        constants["BATCH_SIZE"] = min(int(constants["BATCH_SIZE"]), 256)
        return Configuration("original", "h100.flags", constants, length), Configuration(
            "small", "cpu.flags", small, 256
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Reads what `to_json` gave, with the device that was found meanwhile."""
        value = json.loads(path.read_text(encoding="utf-8"))
        device = value.pop("device")
        found = Path(value["work"]) / DEVICE_FILE
        if found.exists():
            device = json.loads(found.read_text(encoding="utf-8"))
        capability = device.pop("capability")
        return cls(**value, device=DeviceFacts(**device, capability=capability and tuple(capability)))


DEVICE_FILE = "device.json"  # in the work folder: the device as `environment` found it


def micro_batch_rows(memory_bytes: int | None, most: int) -> int:
    """Rows of a micro-batch that the memory holds: a power of two up to `most`."""
    if memory_bytes is None:
        return most
    rows = int(ORIGINAL_ROWS * MEMORY_SHARE * memory_bytes / ORIGINAL_BYTES)
    return max(LEAST_ROWS, min(most, 1 << max(0, rows.bit_length() - 1)))


def read_flagfile(path: Path) -> tuple[dict[str, Any], int]:
    """The constants and the sequence length of a file in configs/; the commands read it by absl."""
    constants: dict[str, Any] = {}
    length = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        flag, _, text = line.partition("=")
        if flag == "--sequence_length":
            length = int(text)
        elif flag == "--set":
            name, _, value = text.partition("=")
            try:
                constants[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                constants[name] = value
    return constants, length


def first_device(platform: str) -> Any:
    """The device of a process that is to use one; ends it with one line if JAX finds none."""
    import jax  # by the parts that compute, and by no other process that reads plans

    try:
        return jax.devices()[0]
    except (RuntimeError, AssertionError) as error:  # the latter where there is no plugin for the platform
        reason = next(iter(str(error).splitlines()), "no plugin for it")
        sys.exit(f"JAX finds no {platform} device ({reason}): `autoresearch doctor` says what to install")


def with_what_they_need(names: Sequence[str]) -> tuple[str, ...]:
    """The parts asked for and those that must run before them, in order."""
    wanted = set(names)
    for part in reversed(PARTS):
        if part.name in wanted:
            wanted |= set(part.after)
    return tuple(name for name in PART_NAMES if name in wanted)
