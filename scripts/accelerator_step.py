"""The parts `export`, `step` and `device`: the programs of both configurations traced on the CPU, compiled, and timed.

    python scripts/accelerator_step.py WHAT FOLDER SECONDS

is the process that has the device: WHAT is "time", "cached" or "device". It prints one line of JSON.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerator_plan import ROOT, Configuration, Plan, first_device, read_flagfile
from accelerator_result import Result, last_json
from bare_trace import TraceFailed, bare_trace

from autoresearch_jax.tasks.lm.device import Device, platform_variables

EXPORTED_FOR = ("cuda", "NVIDIA H100 80GB HBM3")
NUM_BATCHES = 4  # drawn once, used in turn
ZIPF_EXPONENT = 1.1  # of the tokens' frequencies: embeddings are read and trained as unevenly as text does it
WARM_STEPS = 3
LEAST_STEPS = 3
GIBIBYTE = 1 << 30


def export(plan: Plan, result: Result) -> None:
    """The program of configs/h100.flags as an H100 would get it, traced without one."""
    from autoresearch_jax.kernels.platforms import CUDNN_VERSION

    constants, length = read_flagfile(ROOT / "configs" / "h100.flags")
    configuration = Configuration("exported", "h100.flags", constants, length)
    folder = plan.folder / "exported"
    result.set("trace_seconds", _trace(configuration, folder, Device(*EXPORTED_FOR, 1, None)))
    result.set("for", EXPORTED_FOR[1])
    result.set("cudnn_told", CUDNN_VERSION)
    import jax

    for name in ("step_0", "logits_1"):
        text = jax.export.deserialize(bytearray((folder / "programs" / f"{name}.export").read_bytes())).mlir_module()
        calls = re.findall(r'custom_call @"?([^("]+)"?\(', text)
        kernels = {call: calls.count(call) for call in sorted(set(calls)) if call.startswith("__cudnn")}
        result.set(f"{name}_kernels", ", ".join(f"{count} x {call}" for call, count in kernels.items()) or "none")
        result.set(f"{name}_windows", ", ".join(sorted(set(re.findall(r"sliding_window_length\\22: (\d+)", text)))))
        if not kernels:
            result.find(f"{name} of h100.flags does not call cuDNN's attention")


def step(plan: Plan, result: Result) -> None:
    """Trace, cold and cached compile, step time, tokens/s, MFU and memory of both configurations; quick, of one."""
    for configuration in plan.configurations()[: 1 if plan.quick else 2]:
        name = configuration.name
        folder = plan.folder / f"step-{name}"
        batch = configuration.constants.get("BATCH_SIZE")
        if batch is not None:
            result.set(f"{name}_batch_rows", batch)
        result.set(f"{name}_trace_seconds", _trace(configuration, folder, _device(plan)))
        found = worker(plan, folder, "time", plan.pick(6.0, 3.0, 1.0))
        for key, value in found.items():
            result.set(f"{name}_{key}", value)
        cached = worker(plan, folder, "cached", 0.0)
        result.set(f"{name}_compile_cached_seconds", cached["compile_seconds"])
        result.set(f"{name}_compiled_though_cached", cached["compiled_programs"])
        if cached["compiled_programs"]:
            result.find(f"{name}: {cached['compiled_programs']} programs were compiled again, with a full cache")


def device(plan: Plan, result: Result) -> None:
    """Wall against device time: steps as the trainer runs them, back to back, and one by one."""
    configuration = plan.configurations()[0]
    folder = plan.folder / f"step-{configuration.name}"
    if not (folder / "programs" / "signature.json").exists():  # --only=device
        _trace(configuration, folder, _device(plan))
    for key, value in worker(plan, folder, "device", plan.pick(3.0, 1.5, 0.5)).items():
        result.set(key, value)


def _trace(configuration: Configuration, folder: Path, device: Device) -> float:
    """Traces a configuration into FOLDER/programs; seconds."""
    shutil.rmtree(folder, ignore_errors=True)  # of a trace that failed
    folder.mkdir(parents=True)
    (folder / "train_lib.py").write_text(configuration.source(), encoding="utf-8")
    sizes, length = [configuration.vocab_size], configuration.sequence_length
    try:
        return round(bare_trace(folder, device, vocab_sizes=sizes, sequence_length=length), 2)
    except TraceFailed as failure:
        sys.exit(f"the trace of the {configuration.name} configuration failed: {failure}")


def _device(plan: Plan) -> Device:
    return Device(plan.platform, plan.device.kind, plan.mesh_devices, plan.device.memory_bytes)


def worker(plan: Plan, folder: Path, what: str, seconds: float) -> dict[str, Any]:
    """What the process that has the device finds."""
    cache = plan.folder / "compiled"
    variables = {**os.environ, **platform_variables(plan.platform, plan.mesh_devices, os.environ, cache)}
    command = [sys.executable, __file__, what, str(folder), str(seconds)]
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{what}: the process ended with status {done.returncode}")
    return last_json(done.stdout)


class Compiled:
    """The programs of a folder, compiled for this process's device, with the state and tokens to run them on."""

    def __init__(self, folder: Path) -> None:
        import jax
        from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

        from autoresearch_jax.tasks.lm.programs import CompileWatch, compile_program, load_programs

        self.programs = load_programs(folder / "programs")
        first_device(self.programs.platform)
        axes = self.programs.mesh_axes
        devices = np.array(jax.devices()[: int(np.prod(list(axes.values())))]).reshape(tuple(axes.values()))
        self.mesh = Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
        begin = time.monotonic()
        with CompileWatch() as compiles:
            init = compile_program(self.programs.init, self.mesh)
            init_end = time.monotonic()
            self.step = compile_program(self.programs.steps[0].exported, self.mesh, donate=True)
        self.compile_seconds = {"init": init_end - begin, "step": time.monotonic() - init_end}
        self.compiled_programs = compiles.compiled
        self.init = init
        self.batch_shape = self.programs.steps[0].batch_shape
        self.loss_index = self.programs.steps[0].metrics.index("loss")
        self._by_rows = NamedSharding(self.mesh, PartitionSpec("data"))
        vocab = self.programs.vocab_size
        frequencies = 1 / np.arange(1, vocab + 1) ** ZIPF_EXPONENT
        draw = np.random.default_rng(0)
        shape = (NUM_BATCHES, *self.batch_shape)
        self.batches = draw.choice(vocab, size=shape, p=frequencies / frequencies.sum()).astype(np.int32)
        self.number = 0

    @property
    def tokens_per_step(self) -> int:
        return self.batch_shape[0] * (self.batch_shape[1] - 1)

    def leaves(self) -> Any:
        """The first state, on the devices."""
        import jax

        return jax.block_until_ready(self.init(np.array([0, 0], np.uint32)))

    def next_tokens(self) -> np.ndarray:
        self.number += 1
        return self.batches[self.number % NUM_BATCHES]

    def put(self, tokens: np.ndarray) -> Any:
        import jax

        return jax.device_put(tokens, self._by_rows)

    def train(self, leaves: Any, seconds: float | None = None, steps: int | None = None) -> Any:
        """The trainer's own loop with the wall clock."""
        from autoresearch_jax.tasks.lm.clock import WallClock
        from autoresearch_jax.tasks.lm.trainer import TrainPhase, train
        from autoresearch_jax.types import Budget

        phase = TrainPhase(0.0, self.step, self.next_tokens, self.put, self.tokens_per_step, self.loss_index)
        return train(leaves, [phase], budget=Budget(seconds=seconds, steps=steps), clock=WallClock())


def time_steps(compiled: Compiled, seconds: float) -> dict[str, Any]:
    """Figures of a configuration's step."""
    import jax

    from autoresearch_jax.tasks.lm.flops import memory_bytes, mesh_peak_flops

    start = time.monotonic()
    leaves = compiled.leaves()
    init_seconds = time.monotonic() - start
    first = compiled.train(leaves, steps=WARM_STEPS)
    result = compiled.train(first.leaves, seconds=max(seconds, LEAST_STEPS * first.seconds / WARM_STEPS))
    tokens_per_second = result.num_tokens / result.seconds
    peak, of_token = mesh_peak_flops(compiled.mesh), compiled.programs.model_flops_per_token
    mfu = None if peak is None or of_token is None else round(100 * of_token * tokens_per_second / peak, 2)
    needed = memory_bytes(compiled.step)
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "num_params": compiled.programs.num_params,
        "tokens_per_step": compiled.tokens_per_step,
        "compile_init_seconds": round(compiled.compile_seconds["init"], 2),
        "compile_step_seconds": round(compiled.compile_seconds["step"], 2),
        "init_seconds": round(init_seconds, 3),
        "steps_timed": result.num_steps,
        "step_ms": round(1e3 * result.seconds / result.num_steps, 3),
        "tokens_per_second": round(tokens_per_second),
        "mfu_percent": mfu,
        "step_memory_gib": None if needed is None else round(needed / GIBIBYTE, 3),
        "peak_memory_gib": None if used is None else round(used / GIBIBYTE, 3),
        "last_loss_nats": round(result.losses[-1][1], 4),
    }


def time_device(compiled: Compiled, seconds: float) -> dict[str, Any]:
    """A step's time as the trainer runs it, without the host between steps, and with a wait after each."""
    import jax

    progress = np.float32(0.4)  # the middle of the budget: every schedule is at work
    leaves = compiled.train(compiled.leaves(), steps=WARM_STEPS).leaves
    trained = compiled.train(leaves, seconds=seconds)
    leaves, wall = trained.leaves, trained.seconds / trained.num_steps
    steps = max(LEAST_STEPS, round(seconds / wall))
    placed = [compiled.put(batch) for batch in compiled.batches]
    jax.block_until_ready(placed)

    start = time.monotonic()
    dispatched = 0.0
    for number in range(steps):
        before = time.monotonic()
        leaves, _ = compiled.step(leaves, placed[number % NUM_BATCHES], progress)
        dispatched += time.monotonic() - before
    jax.block_until_ready(leaves)
    back_to_back = (time.monotonic() - start) / steps

    alone = []
    for number in range(steps):
        before = time.monotonic()
        leaves, _ = compiled.step(leaves, placed[number % NUM_BATCHES], progress)
        jax.block_until_ready(leaves)
        alone.append(time.monotonic() - before)
    return {
        "steps": steps,
        "trainer_step_ms": round(1e3 * wall, 3),
        "back_to_back_step_ms": round(1e3 * back_to_back, 3),
        "blocking_step_ms": round(1e3 * statistics.median(alone), 3),
        "dispatch_ms": round(1e3 * dispatched / steps, 3),
        "trainer_data_wait_ms": round(1e3 * trained.data_wait_seconds / trained.num_steps, 3),
        "between_steps_percent": round(100 * (1 - back_to_back / wall), 2),
    }


def main() -> None:
    what, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    compiled = Compiled(folder)
    found: Mapping[str, Any]
    if what == "time":
        found = time_steps(compiled, seconds)
    elif what == "device":
        found = time_device(compiled, seconds)
    else:
        found = {
            "compile_seconds": round(sum(compiled.compile_seconds.values()), 2),
            "compiled_programs": compiled.compiled_programs,
        }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
