"""A repository whose runs are of a fake task, and commands on them."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeTask
from hand_runs import Call, Made

from autoresearch_jax import cli


@pytest.fixture(autouse=True)
def quiet(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are on a task of little noise."""
    monkeypatch.setattr(Made, "task", FakeTask(noise=0.0001))


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
