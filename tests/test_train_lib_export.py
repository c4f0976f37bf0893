"""train_lib.py exports for every platform from a host that has none but a CPU, on one device and on a mesh."""

import base64
import dataclasses
import os
import re
from pathlib import Path

import pytest
from train_lib_source import TINY, tiny_source_text

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.sandbox.sandbox import ProcessLimits, Sandbox
from autoresearch_jax.tasks.lm.conditions import USUAL
from autoresearch_jax.tasks.lm.preparing import run_trace
from autoresearch_jax.tasks.lm.programs import Programs, load_programs

H100, TPU = "NVIDIA H100 80GB HBM3", "TPU v5 lite"
ONE, EIGHT = {"data": 1, "model": 1}, {"data": 4, "model": 2}
LIMITS = ProcessLimits(wall_seconds=300)
# heads, context and type that kernels take; two layers, one with a window
FOR_KERNELS = {"HEAD_DIM": 128, "ASPECT_RATIO": 128, "COMPUTE_DTYPE": "bfloat16"}
CUDNN = {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}


def traced(task: TaskSpec, mesh: dict[str, int], source: str, sandbox: Sandbox, folder: Path) -> Programs:
    """Traces a source in the sandbox, as the driver does, and checks the programs, as a trial's process does."""
    cage, out_dir = folder / "cage", folder / "out"
    cage.mkdir(parents=True)
    out_dir.mkdir()
    (cage / "train_lib.py").write_text(source)
    request = {
        "source": str(cage / "train_lib.py"),
        "task": dataclasses.asdict(task),
        "mesh": mesh,
        "judge_batch_sizes": [8],
    }
    log_path = folder / "trace.log"
    run_trace(
        request, out_dir, conditions=USUAL, sandbox=sandbox, limits=LIMITS, environment=os.environ, log_path=log_path
    )
    return load_programs(out_dir)


def kernels(text: str) -> set[str]:
    names = {name.strip('"') for name in re.findall(r"custom_call @([^(]+)\(", text)}
    return {name for name in names if name.startswith(("__cudnn", "tpu_custom_call"))}


ON_CPU = ("cpu", "cpu", set(), set())
ON_CUDA = ("cuda", H100, CUDNN, {"__cudnn$fmhaSoftmax"})
ON_TPU = ("tpu", TPU, {"tpu_custom_call"}, {"tpu_custom_call"})


@pytest.mark.parametrize(
    ("platform", "device_kind", "of_step", "of_logits", "mesh"),
    [
        pytest.param(*ON_CUDA, EIGHT, id="cuda, eight devices"),
        pytest.param(*ON_TPU, ONE, id="tpu, one device", marks=pytest.mark.slow),
        pytest.param(*ON_CUDA, ONE, id="cuda, one device", marks=pytest.mark.slow),
        pytest.param(*ON_TPU, EIGHT, id="tpu, eight devices", marks=pytest.mark.slow),
        pytest.param(*ON_CPU, ONE, id="cpu, one device", marks=pytest.mark.slow),
        pytest.param(*ON_CPU, EIGHT, id="cpu, eight devices", marks=pytest.mark.slow),
    ],
)
def test_programs_for_a_platform_use_its_kernels_and_pass_the_checks(
    platform: str,
    device_kind: str,
    of_step: set[str],
    of_logits: set[str],
    mesh: dict[str, int],
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    num_devices = mesh["data"] * mesh["model"]
    task = TaskSpec((256,), sequence_length=128, platform=platform, device_kind=device_kind, num_devices=num_devices)
    programs = traced(task, mesh, tiny_source_text(**FOR_KERNELS), sandbox, tmp_path / "traced")
    step, logits = programs.steps[0].exported, programs.logits[8]
    assert kernels(step.mlir_module()) == of_step
    assert kernels(logits.mlir_module()) == of_logits
    assert programs.constant_bytes < 100_000
    assert step.nr_devices == num_devices
    assert step.in_avals[: len(programs.leaf_names)] == step.out_avals[: len(programs.leaf_names)]
    # shapes inside of a kernel's call are those of one device: its rows and heads
    rows, heads = TINY["BATCH_SIZE"] // mesh["data"], 2 // mesh["model"]
    if platform != "cpu":
        calls = [line for line in step.mlir_module().splitlines() if "__cudnn" in line or "tpu_custom_call" in line]
        assert calls
        for line in calls:
            assert re.search(rf"tensor<{rows}x({heads}x128|128x{heads})x128xbf16>", line), line[-600:]


@pytest.mark.slow
def test_equal_programs_for_a_tpu_are_equal_wherever_their_kernels_lie(sandbox: Sandbox, tmp_path: Path) -> None:
    task = TaskSpec((256,), sequence_length=128, platform="tpu", device_kind=TPU)
    source = tiny_source_text(**FOR_KERNELS)
    moved = "# another line\n" * 7 + source
    one, other = (traced(task, ONE, text, sandbox, tmp_path / str(i)) for i, text in enumerate((source, moved)))
    assert one.program_hash == other.program_hash
    payloads = re.findall(r"body\\22: \\22([A-Za-z0-9+/=]+)", one.steps[0].exported.mlir_module())
    assert payloads
    assert not any(b".py" in base64.b64decode(payload) for payload in payloads)
