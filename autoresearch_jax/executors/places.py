"""Which processors, devices and variables each worker of one host has. Loads no JAX."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.errors import UsageError

PROCESSORS = Path("/sys/devices/system/cpu")
FIRST_TPU_PORT = 8476  # libtpu's default, of which each process needs one
# By which a user chooses devices; the first is the one that we set
_CHOSEN_BY = {"cuda": ("CUDA_VISIBLE_DEVICES",), "tpu": ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")}
_CALLED = {"cuda": ("GPU", "GPUs"), "tpu": ("TPU chip", "TPU chips")}


@dataclass(frozen=True)
class Place:
    """What of a host one worker has; the default is all of it."""

    number: int = 0  # of the worker, from 0
    cpus: frozenset[int] = frozenset()  # processors of its processes; empty for those of this process
    variables: Mapping[str, str] = field(default_factory=dict)  # that show its processes one device

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Inside, this thread and the processes that it starts run on the place's processors only.

        XLA, Eigen and OpenMP make as many threads as the processors that a process may use when it starts.
        """
        if not self.cpus:
            yield
            return
        before = os.sched_getaffinity(0)  # of this thread alone
        os.sched_setaffinity(0, self.cpus)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


ANYWHERE = Place()


def processor_cores(folder: Path = PROCESSORS) -> list[tuple[int, ...]]:
    """The processors that this process may use, those of one core together; empty where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = str(cpu)
        with contextlib.suppress(OSError):
            siblings = (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
        cores.setdefault(siblings, []).append(cpu)
    return [tuple(core) for core in cores.values()]


def divide_processors(workers: int, cores: Sequence[Sequence[int]]) -> list[Place]:
    """Places with as many processors each and no core in common; what does not divide stays unused.

    Raises:
      UsageError: there are fewer cores than workers.
    """
    if workers > len(cores):
        raise _too_few(workers, len(cores), "processor core", "processor cores")
    share = len(cores) // workers
    groups = [cores[number * share : (number + 1) * share] for number in range(workers)]
    sets = [[cpu for core in group for cpu in core] for group in groups]
    least = min(map(len, sets))  # some threads of a core may be denied to this process
    return [Place(number, frozenset(cpus[:least])) for number, cpus in enumerate(sets)]


def divide_devices(workers: int | None, platform: str, num_devices: int, environment: Mapping[str, str]) -> list[Place]:
    """Places with one GPU or TPU chip each.

    See https://docs.jax.dev/en/latest/gpu_performance_tips.html for CUDA. Of a TPU, libtpu needs to be told that each
    process is a whole slice of one chip, with a port of its own; not run on a TPU.

    Args:
      workers: how many; None for one each.
      platform: "cuda" or "tpu".
      num_devices: GPUs or chips that this process sees.
      environment: its variables; a choice of devices in them stands.

    Raises:
      UsageError: there are fewer devices than workers.
    """
    chosen = next((environment[name] for name in _CHOSEN_BY[platform] if environment.get(name)), None)
    devices = [str(number) for number in range(num_devices)]
    if chosen is not None:
        devices = [name.strip() for name in chosen.split(",")][:num_devices]
    if workers is None:
        workers = len(devices)
    if workers > len(devices):
        raise _too_few(workers, len(devices), *_CALLED[platform])
    return [Place(number, variables=_variables(platform, number, devices[number])) for number in range(workers)]


def _variables(platform: str, number: int, device: str) -> dict[str, str]:
    variables = dict.fromkeys(_CHOSEN_BY[platform], device)
    if platform == "tpu":
        port = FIRST_TPU_PORT + number
        variables |= {
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
            "TPU_PROCESS_PORT": str(port),
            "CLOUD_TPU_TASK_ID": "0",
        }
    return variables


def _too_few(workers: int, there: int, one: str, many: str) -> UsageError:
    what = f"is 1 {one}" if there == 1 else f"are {there} {many}"
    return UsageError(f"--workers={workers}: there {what} for them: use --workers={max(there, 1)}, or auto")
