"""Tracing in the test's own process, for tests of what comes after it."""

import dataclasses
from pathlib import Path

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.kernels.platforms import seen_by_jax
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.trace import trace

TASK = TaskSpec(vocab_sizes=(256,), sequence_length=16, budget_steps=5)
JUDGE_BATCH_ROWS = (4, 2)


def traced(
    source: str, folder: Path, platform: str = "cpu", device_kind: str = "cpu", sequence_length: int = 16
) -> Path:
    """Traces a source into a new folder, in this process, and returns that folder."""
    folder.mkdir()
    path = folder / "train_lib.py"
    path.write_text(source)
    programs_dir = folder / "programs"
    programs_dir.mkdir()
    task = dataclasses.replace(TASK, platform=platform, device_kind=device_kind, sequence_length=sequence_length)
    with seen_by_jax(device_kind):
        trace(path, task, make_mesh({"data": 1, "model": 1}), JUDGE_BATCH_ROWS, programs_dir)
    return programs_dir


def edited(source: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return source
