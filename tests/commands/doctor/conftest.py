"""A repository in which doctor is asked."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doctored import Doctor, lines
from fakes import PROGRAM, SOURCE
from repositories import make_repository

from autoresearch_jax.cli import main
from autoresearch_jax.commands import dataset_options
from autoresearch_jax.tasks.lm.data.dataset import Dataset


@pytest.fixture(autouse=True)
def cache(sandbox_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dataset_options, "default_cache_dir", lambda environment: sandbox_cache)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    return sandbox_cache


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def repo(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that is the present folder, with a training file and a page that are committed."""
    folder = tmp_path / "repo"
    make_repository(folder, SOURCE, PROGRAM.replace("loss", "val_bpb"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def doctor(repo: Path, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Calls the command in that repository; later flags count. Returns exit status and lines."""
    flags = [
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        "--sequence_length=32",
        "--vocab_sizes=256,320",
        f"--compile_cache={tmp_path / 'compiled'}",
        "--platform=cpu",
    ]

    def call(sections: str, *words: str) -> tuple[int, dict[str, str]]:
        status = main(["doctor", *flags, f"--sections={sections}", *words])
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return status, lines(found.out)

    return call


@pytest.fixture
def wrapped_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has git do more, by lines of shell, once it has made a worktree."""

    def wrap(then: str) -> None:
        wrapper = tmp_path / "bin" / "git"
        wrapper.parent.mkdir()
        real = shutil.which("git")
        wrapper.write_text(f'#!/bin/sh\ncase "$*" in *"worktree add"*) {real} "$@"; {then} ;; esac\nexec {real} "$@"\n')
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")

    return wrap
