"""One row of bench_step.py's table in a process of its own: compiles its step, then runs steps when asked.

    python scripts/bench_step_worker.py FOLDER ROW PLATFORM

FOLDER holds what all rows share: the traced programs, the first state (which the row "init" writes), the tokens.
Speaks JSON lines as a trial's process does, and loads JAX or PyTorch as the row asks, never both.
"""

import collections
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEAVES_FILE = "leaves.npz"
PARAMETERS = "params/"  # how the names of train_lib.py's parameters begin
NUDGE = 0.02
WARM_STEPS = 2
UNCOUNTED_SECONDS = 0.8  # at the beginning of each turn
MAX_STEPS_IN_FLIGHT = 2  # as the trainer has them
PROGRESS = 0.4  # the middle of the budget: every schedule is at work

Step = Callable[[int], Any]  # from the number of a batch to a loss that float() waits for


def write_first_state(folder: Path) -> None:
    """Runs the traced `init`; all rows begin from what it gives, a little away from it.

    At the start itself many gradients are zero but for their rounding, of which AdamW makes whole steps: the rows'
    losses would differ though all compute the same.
    """
    from autoresearch_jax.tasks.lm.programs import compile_program, load_programs, make_mesh

    programs = load_programs(folder / "programs")
    leaves = compile_program(programs.init, make_mesh(programs.mesh_axes))(np.array([0, 0], np.uint32))
    draw = np.random.default_rng(0)
    named = {name: np.asarray(leaf) for name, leaf in zip(programs.leaf_names, leaves, strict=True)}
    for name, leaf in named.items():
        if name.startswith(PARAMETERS):
            named[name] = leaf + (NUDGE * draw.normal(size=leaf.shape)).astype(leaf.dtype)
    np.savez(folder / LEAVES_FILE, **named)
    _emit({"event": "ready", "model_flops_per_token": programs.model_flops_per_token})


def compile_ours(folder: Path) -> tuple[Step, float]:
    """The traced program of train_lib.py's step, compiled as a trial does; what it took, in seconds."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from autoresearch_jax.tasks.lm.programs import compile_program, load_programs, make_mesh

    programs = load_programs(folder / "programs")
    mesh = make_mesh(programs.mesh_axes)
    start = time.monotonic()
    compiled = compile_program(programs.steps[0].exported, mesh, donate=True)
    seconds = time.monotonic() - start
    dtypes = [aval.dtype for aval in programs.init.out_avals]
    with np.load(folder / LEAVES_FILE) as file:  # which keeps the bits of bfloat16, but not its name
        leaves = [file[name].view(dtype) for name, dtype in zip(programs.leaf_names, dtypes, strict=True)]
    args, _ = compiled.input_shardings
    leaves = jax.device_put(leaves, list(args[0]))
    by_rows = NamedSharding(mesh, PartitionSpec("data"))
    loss_index = programs.steps[0].metrics.index("loss")
    batches = np.load(folder / "tokens.npy")

    def step(number: int) -> Any:
        nonlocal leaves
        tokens = jax.device_put(batches[number % len(batches)], by_rows)
        leaves, metrics = compiled(leaves, tokens, np.float32(PROGRESS))
        return metrics[loss_index]

    return step, seconds


def compile_plain_jax(folder: Path, dtype: str) -> tuple[Step, float]:
    """The plain JAX port's step."""
    import jax.numpy as jnp
    from bench_reference_jax import Trainer

    trainer = Trainer(_settings(folder), _parameters(folder), dtype=getattr(jnp, dtype))
    batches = np.load(folder / "tokens.npy")
    start = time.monotonic()
    trainer.compile(jnp.asarray(batches[0]))
    seconds = time.monotonic() - start
    return lambda number: trainer.step(jnp.asarray(batches[number % len(batches)]), PROGRESS), seconds


def compile_torch(folder: Path, dtype: str, platform: str, *, compiled: bool) -> tuple[Step, float]:
    """PyTorch's step; it compiles with the first ones, so these are run, and a later one's time taken off."""
    import torch
    from bench_reference import Trainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high" if platform == "cuda" else "highest")  # TF32, as JAX has it on a GPU
    trainer = Trainer(
        _settings(folder), _parameters(folder), dtype=getattr(torch, dtype), compiled=compiled, device=platform
    )
    batches = torch.from_numpy(np.load(folder / "tokens.npy")).long()

    def step(number: int) -> Any:
        return trainer.step(batches[number % len(batches)].to(platform), PROGRESS)

    return step, 0.0


def torch_lacks(platform: str) -> str | None:
    """Why PyTorch cannot run where the other rows do; None if it can."""
    import torch

    if platform == "cpu" or torch.cuda.is_available():
        return None
    return f"PyTorch {torch.__version__} sees no CUDA device: install a build for CUDA, or give --without_torch"


def _settings(folder: Path) -> Any:
    from bench_reference_settings import Settings

    return Settings(**json.loads((folder / "settings.json").read_text()))


def _parameters(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / LEAVES_FILE) as file:
        return {name.removeprefix(PARAMETERS): file[name] for name in file.files if name.startswith(PARAMETERS)}


class Stepper:
    """Runs steps with some in flight, as the trainer does."""

    def __init__(self, step: Step) -> None:
        self.step, self.number = step, 0

    def run(self, steps: int) -> dict[str, float]:
        """Seconds for so many steps, and the last one's loss."""
        start = time.monotonic()
        loss = self._run(steps)
        return {"seconds": time.monotonic() - start, "loss": loss}

    def take_turn(self, seconds: float) -> float:
        """Seconds a step, over about so many seconds of steps, after some that do not count.

        The first ones of a process that waited are slower, by as much as it has memory, and a trial's process does
        not wait between its steps.
        """
        begin, warm = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < UNCOUNTED_SECONDS:
            self._run(MAX_STEPS_IN_FLIGHT)
            warm += MAX_STEPS_IN_FLIGHT
        steps = max(MAX_STEPS_IN_FLIGHT, round(seconds * warm / passed))
        return self.run(steps)["seconds"] / steps

    def _run(self, steps: int) -> float:
        pending: collections.deque[Any] = collections.deque()
        loss = float("nan")
        for _ in range(steps):
            pending.append(self.step(self.number))
            self.number += 1
            if len(pending) == MAX_STEPS_IN_FLIGHT:
                loss = float(pending.popleft())
        while pending:
            loss = float(pending.popleft())
        return loss


def ceilings() -> dict[str, Any]:
    """FLOP/s of a matrix product, by the harness's own measure in bf16 and by the same in float32 (CPU only)."""
    import jax

    from autoresearch_jax.tasks.lm.flops import measured_flops, mesh_peak_flops
    from autoresearch_jax.tasks.lm.programs import make_mesh

    found = {"bfloat16": mesh_peak_flops(make_mesh({"data": 1, "model": 1})), "float32": None}
    if jax.default_backend() == "cpu":
        found["float32"] = measured_flops(jax.devices()[0], "float32")
    return found


def peak_bytes(row: str, platform: str) -> int | None:
    """The most memory that this process has had: on the accelerator if there is one, else of the host."""
    if row.startswith("torch"):
        import torch

        if platform == "cuda":
            return torch.cuda.max_memory_allocated()
    else:
        import jax

        stats = jax.devices()[0].memory_stats()
        if stats:
            return stats.get("peak_bytes_in_use")
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def main() -> None:
    folder, row, platform = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    kind, *words = row.split()
    if kind == "init":
        write_first_state(folder)
        return
    if kind == "torch" and importlib.util.find_spec("torch") is None:
        _emit({"event": "missing"})
        return
    if kind == "torch" and (reason := torch_lacks(platform)):
        _emit({"event": "refused", "reason": reason})
        return
    stepper = None
    if kind != "ceiling":
        if kind == "ours":
            step, seconds = compile_ours(folder)
        elif kind == "jax":
            step, seconds = compile_plain_jax(folder, words[0])
        else:
            step, seconds = compile_torch(folder, words[1], platform, compiled=words[0] == "compile")
        stepper = Stepper(step)
        first = stepper.run(1)["seconds"]
        warm = stepper.run(WARM_STEPS)
        if kind == "torch" and words[0] == "compile":
            seconds = max(0.0, first - warm["seconds"] / WARM_STEPS)
        _emit({"event": "ready", "compile_seconds": seconds, "loss": warm["loss"]})
    else:
        ceilings()
        _emit({"event": "ready"})
    for line in sys.stdin:
        seconds = json.loads(line)["seconds"]
        if stepper is None:
            _emit({"event": "ceiling", **ceilings()})
        else:
            step_seconds = stepper.take_turn(seconds)
            _emit({"event": "ran", "step_seconds": step_seconds, "peak_bytes": peak_bytes(row, platform)})


def _emit(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
