"""Trials of the language-model task, run for what becomes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Budget, Measurement, Scalar, Scrutiny

STEPS = Budget(steps=30)
MakeTask = Callable[..., LmTask]


def run_trial(
    task: LmTask,
    source: str,
    folder: Path,
    seed: int = 0,
    reports: list[Mapping[str, Scalar]] | None = None,
    scrutiny: Scrutiny = Scrutiny.SEARCH,
    on_progress: Callable[[Mapping[str, Scalar]], None] | None = None,
) -> Measurement:
    """Prepares and measures a source with one new folder for everything."""
    folder.mkdir()
    candidate = task.prepare(source, folder)
    assert candidate.programs_dir is not None
    assert candidate.programs_dir.name == candidate.program_hash
    return task.measure(
        candidate,
        seed=seed,
        log_dir=folder,
        snapshot_dir=folder / "snapshot",
        on_progress=on_progress if reports is None else reports.append,
        scrutiny=scrutiny,
    )
