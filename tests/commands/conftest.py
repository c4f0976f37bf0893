"""A repository whose runs have trials of seconds, and a run that is over."""

import pickle
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from filelock import FileLock
from finished_night import Night, run_night
from hand_runs import Made
from repositories import make_repository
from task_stand_in import stand_in

from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.tasks.lm.data.dataset import Dataset

PAGE = "## Goal\n\nLower it.\n\n## You may change\n\n|constant|values|\n|---|---|\n|LEARNING_RATE|1.0 .. 40.0|\n"


@pytest.fixture
def tiny_run(tiny_dataset: Dataset, tiny_source: str, compile_cache: Path, tmp_path: Path) -> list[str]:
    """Flags of a run, but for its tag, its end and its proposer; its repository is `tmp_path`."""
    make_repository(tmp_path, tiny_source, PAGE)
    return [
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        *("--sequence_length=32", "--vocab_sizes=256,320", "--budget_steps=20", "--decision=greedy", "--seed=0"),
        f"--compile_cache={compile_cache}",
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that is the present folder, and a task of milliseconds."""
    make_repository(tmp_path, SOURCE, PROGRAM)
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch, lambda options: Made.task)
    monkeypatch.setattr(Made, "task", FakeTask())
    return tmp_path


@pytest.fixture
def editable(tiny_source: str, tmp_path: Path) -> Path:
    path = tmp_path / "train_lib.py"
    path.write_text(tiny_source)
    return path


@pytest.fixture
def flags(tiny_dataset: Dataset, editable: Path, compile_cache: Path, tmp_path: Path) -> list[str]:
    """Flags of a trial that takes seconds."""
    return [
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        "--sequence_length=32",
        "--vocab_sizes=256,320",
        f"--editable={editable}",
        f"--run_dir={tmp_path / 'runs'}",
        "--budget_steps=20",
        f"--compile_cache={compile_cache}",
    ]


@pytest.fixture(scope="session")
def finished(tiny_dataset: Dataset, tiny_source: str, compile_cache: Path, shared_folder: Path) -> Night:
    """A run of two experiments; not to be written to. The first process that wants it makes it for all."""
    place, made = shared_folder / "finished", shared_folder / "finished.pickle"
    flags = (
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        *("--sequence_length=32", "--vocab_sizes=256,320", "--budget_steps=20", "--platform=cpu"),
        *(f"--compile_cache={compile_cache}", "--nostandby"),
    )
    with FileLock(f"{place}.lock"):
        if not made.exists():
            place.mkdir()
            made.write_bytes(pickle.dumps(run_night(place, flags, tiny_source)))
    return pickle.loads(made.read_bytes())


@pytest.fixture
def night(finished: Night, tmp_path: Path) -> Night:
    copy = shutil.copytree(finished.folder.path, tmp_path / "runs" / "night", symlinks=True)
    return replace(finished, folder=RunFolder(copy))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's folder for temporary files, which is empty in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
