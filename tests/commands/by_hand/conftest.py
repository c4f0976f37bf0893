"""A repository whose runs are of a fake task, and commands on them."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from hand_runs import Call, Made
from repositories import make_repository
from task_stand_in import stand_in

from autoresearch_jax import cli


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that is the present folder, and a task of milliseconds."""
    make_repository(tmp_path, SOURCE, PROGRAM)
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch, lambda options: Made.task)
    monkeypatch.setattr(Made, "task", FakeTask(noise=0.0001))
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command: its exit status, what it printed as JSON, and what it said."""

    def command(*words: str) -> tuple[int, dict[str, Any], str]:
        status = cli.main(list(words))
        captured = capsys.readouterr()
        return status, json.loads(captured.out) if captured.out.startswith("{") else {}, captured.err

    return command


@pytest.fixture
def begun(capsys: pytest.CaptureFixture[str]) -> None:
    """A run with a baseline."""
    assert cli.main(["run", "--tag=night", "--experiments=0", "--seed=0"]) == 0
    capsys.readouterr()
