"""`autoresearch init`: what an agent and a run need, in a git repository that has nothing of it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from repositories import git
from train_lib_source import TINY

from autoresearch_jax import cli
from autoresearch_jax.commands.init import FILES
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.tasks.lm.data.dataset import Dataset

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty git repository."""
    place = tmp_path / "a place"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    return place


def test_it_writes_what_the_checkout_has(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", str(place)]) == 0
    assert {path.name for path in place.iterdir()} == {".git", *FILES}
    for name in FILES:
        assert (place / name).read_bytes() == (ROOT / name).read_bytes()
        assert not (place / name).is_symlink()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [*FILES, "next"]


def test_it_overwrites_nothing(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    (place / "AGENTS.md").write_text("mine\n")
    (place / "program.md").symlink_to(tmp_path / "nowhere")
    assert cli.main(["init", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name].split()[0] for name in FILES] == ["there", "there", "written"]
    assert "git add train_lib.py &&" in found["next"]
    assert (place / "AGENTS.md").read_text() == "mine\n"
    assert not (tmp_path / "nowhere").exists()


def test_half_a_file_does_not_stay(place: Path) -> None:
    """On a full disk; here a limit of 8 KiB a file, which the training file is beyond."""
    init = f"ulimit -f 8; exec {sys.executable} -m autoresearch_jax.cli init ."
    done = subprocess.run(["bash", "-c", init], cwd=place, capture_output=True, text=True)
    assert done.returncode == 1
    assert "train_lib.py: cannot be written: File too large" in done.stderr
    assert {path.name for path in place.iterdir()} == {".git", "AGENTS.md", "program.md"}


@pytest.mark.parametrize(
    ("folder", "status", "words"),
    [
        ("a folder", 1, "in no git repository, and a run keeps its results as commits: git init '{place}/a folder'"),
        ("missing", 1, "no such folder: make it, git init {place}/missing"),
    ],
)
def test_a_folder_without_git_is_refused_with_the_remedy(tmp_path, monkeypatch, capsys, folder, status, words):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "a folder").mkdir()
    assert cli.main(["init", str(tmp_path / folder)]) == status
    errors = capsys.readouterr().err
    assert words.format(place=tmp_path) in errors
    assert errors.count("\n") == 1
    assert list((tmp_path / "a folder").iterdir()) == []


def test_one_folder_at_a_time(capsys):
    assert cli.main(["init", "a", "b"]) == 2
    assert "one folder, not 2: a b" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_works_afterwards(place: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    """With the real training file, made small, and the page as it comes."""

    def autoresearch(*words: str) -> str:
        command = [sys.executable, "-m", "autoresearch_jax.cli", *words]
        return subprocess.run(command, cwd=place, check=True, capture_output=True, text=True).stdout

    autoresearch("init")
    git(place, "add", ".")
    git(place, "commit", "-qm", "start")
    autoresearch(
        *("run", "--tag=a", "--experiments=1", "--seed=0", "--decision=greedy", "--baseline_runs=1"),
        *(
            "--proposer=command",
            "--agent_command=test -f BRIEF.md && ls AGENTS.md && sed -i 's/^SOFTCAP = .*/SOFTCAP = 9.0/' *.py",
        ),
        *(f"--corpus={tiny_dataset.manifest.corpus}", f"--data_dir={tiny_dataset.folder.parent}"),
        *("--sequence_length=32", "--vocab_sizes=256,320", "--budget_steps=4", f"--compile_cache={tmp_path / 'cache'}"),
        *(f"--set={name}={value}" for name, value in TINY.items()),
    )
    rows = Ledger.open_to_read(place / "runs/a/ledger.db").experiments()
    assert [row.score is not None for row in rows] == [True, True]
    assert rows[1].hypothesis == "AGENTS.md"
    assert git(place, "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_wheel_has_the_files_and_not_links_to_them(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(tmp_path / "clone")], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            assert archive.read(f"autoresearch_jax/starter/{name}") == (tmp_path / "clone" / name).read_bytes()
