"""Trials of the language-model task, run for what becomes of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoresearch_jax.tasks.lm.config import MeasureRequest, TimeLimits
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Budget, Candidate, Measurement, Scalar, Scrutiny

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
    return measure_in(task, candidate, folder, seed, reports, scrutiny, on_progress)


def measure_in(
    task: LmTask,
    candidate: Candidate,
    folder: Path,
    seed: int = 0,
    reports: list[Mapping[str, Scalar]] | None = None,
    scrutiny: Scrutiny = Scrutiny.SEARCH,
    on_progress: Callable[[Mapping[str, Scalar]], None] | None = None,
) -> Measurement:
    """Measures a candidate that was prepared; the folder is made if it is missing."""
    folder.mkdir(exist_ok=True)
    return task.measure(
        candidate,
        seed=seed,
        log_dir=folder,
        snapshot_dir=folder / "snapshot",
        on_progress=on_progress if reports is None else reports.append,
        scrutiny=scrutiny,
    )


def measure_request(folder: Path, **fields: Any) -> MeasureRequest:
    """The request for a trial in `folder`; `fields` say what is not as it usually is."""
    usual = {
        "programs_dir": "programs",
        "program_hash": "a",
        "dataset_folder": "data",
        "sequence_length": 8,
        "judge_tokens": None,
        "scrutiny": Scrutiny.SEARCH,
        "seed": 0,
        "budget": STEPS,
        "clock": "wall",
        "reference_seconds": None,
        "snapshot_dir": str(folder / "snapshot"),
        "log_dir": str(folder),
        "device_memory_bytes": None,
        "min_steps": 1,
        "limits": TimeLimits(max_stretch=20.0),
        "facts": {},
    }
    return MeasureRequest(**{**usual, **fields})
