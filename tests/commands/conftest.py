"""A repository whose runs have trials of seconds."""

import subprocess
from pathlib import Path

import pytest

from autoresearch_jax.lm.dataset import Dataset

PAGE = "## Goal\n\nLower it.\n\n## You may change\n\n|constant|values|\n|---|---|\n|LEARNING_RATE|1.0 .. 40.0|\n"


@pytest.fixture
def tiny_run(tiny_dataset: Dataset, tiny_source: str, tmp_path: Path) -> list[str]:
    """Flags of a run, but for its tag, its end and its proposer; its repository is `tmp_path`."""
    (tmp_path / "train_lib.py").write_text(tiny_source)
    (tmp_path / "program.md").write_text(PAGE)
    for words in ("init -q", "add .", "-c user.name=x -c user.email=x@y.org commit -qm a"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True)
    return [
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        *("--sequence_length=32", "--vocab_sizes=256,320", "--budget_steps=20", "--decision=greedy"),
        f"--compile_cache={tmp_path / 'cache'}",
    ]
