"""A repository in which a run would work, and the command called in it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_calls import Doctor, git, lines
from fakes import PROGRAM, SOURCE

from autoresearch_jax.cli import main
from autoresearch_jax.commands import task_flags
from autoresearch_jax.commands.checks import sandbox as sandbox_section
from autoresearch_jax.tasks.lm.data.dataset import Dataset


@pytest.fixture(autouse=True)
def cache(sandbox_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (sandbox_section, task_flags):
        monkeypatch.setattr(module, "CACHE_DIR", str(sandbox_cache))
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    return sandbox_cache


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; nothing may be left in it, unless a test takes it away."""
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
    folder.mkdir()
    (folder / "train_lib.py").write_text(SOURCE)
    (folder / "program.md").write_text(PROGRAM.replace("loss", "val_bpb"))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "Researcher")
    git(folder, "config", "user.email", "researcher@example.org")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "start")
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
