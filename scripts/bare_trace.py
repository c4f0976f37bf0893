"""Traces a training file as a trial does, but for the sandbox."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from autoresearch_jax.tasks.lm.conditions import USUAL
from autoresearch_jax.tasks.lm.device import Device


class TraceFailed(Exception):
    """The text has no programs; the message says why."""


def bare_trace(folder: Path, device: Device, *, vocab_sizes: Sequence[int], sequence_length: int) -> float:
    """Traces FOLDER/train_lib.py into FOLDER/programs.

    Returns:
      Seconds, the start of the process included.

    Raises:
      TraceFailed: there are no programs.
    """
    programs, request_path = folder / "programs", folder / "request.json"
    programs.mkdir()
    request = {
        "source": str(folder / "train_lib.py"),
        "task": {
            "vocab_sizes": list(vocab_sizes),
            "sequence_length": sequence_length,
            "platform": device.platform,
            "device_kind": device.device_kind,
            "num_devices": device.num_devices,
            "device_memory_bytes": device.memory_bytes,
        },
        "mesh": {"data": device.num_devices, "model": 1},
        "judge_batch_sizes": [1],
        "clock": USUAL.clock,
        "seed": USUAL.seed,
    }
    request_path.write_text(json.dumps(request), encoding="utf-8")
    flags = f"--xla_force_host_platform_device_count={device.num_devices}"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "autoresearch_jax.tasks.lm.trace", str(request_path), str(programs)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONHASHSEED": str(USUAL.hash_seed)},
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        failure = programs / "failure.json"
        said = json.loads(failure.read_text())["reason"] if failure.exists() else done.stderr[-2000:]
        raise TraceFailed(said)
    return time.monotonic() - start
