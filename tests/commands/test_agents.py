"""configs/agents/: each flag file starts a run with a stand-in for its program, and Gemini CLI itself where it is."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from gemini_server import MODEL, GeminiServer, Request, Step, calls, says
from repositories import make_repository
from task_stand_in import stand_in

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow

CONFIGS = sorted((Path(__file__).parent.parent.parent / "configs" / "agents").glob("*.flags"))
# Says what it was called with, and proposes
STAND_IN = """#!/bin/sh
test -f BRIEF.md || exit 9
sed -i 's/^LR = .*/LR = 0.1/' train_lib.py
echo "called with $*" > HYPOTHESIS.md
"""


def rows_of(place: Path) -> list[ExperimentRow]:
    with closing(Ledger.open_to_read(place / "runs/night/ledger.db")) as ledger:
        return ledger.experiments()


def test_each_agent_of_the_guide_has_one():
    assert [path.stem for path in CONFIGS] == ["aider", "claude_code", "codex", "gemini_cli"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_says_how_to_call_it_and_whether_it_was_run(config: Path) -> None:
    text = config.read_text()
    assert f"--flagfile=configs/agents/{config.name}\n" in text
    assert "# Expects: " in text
    assert "# Not run: " in text or "# Run: " in text


@pytest.mark.parametrize(
    "config",
    [pytest.param(path, marks=[pytest.mark.slow] * (path != CONFIGS[0]), id=path.stem) for path in CONFIGS],
)
def test_it_starts_a_run(config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    command = next(line for line in config.read_text().splitlines() if line.startswith("--agent_command="))
    program, _, arguments = command.removeprefix("--agent_command=").partition(" ")
    programs, place = tmp_path / "bin", tmp_path / "place"
    programs.mkdir()
    (programs / program).write_text(STAND_IN)
    (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    make_repository(place, SOURCE, PROGRAM)
    monkeypatch.chdir(place)
    stand_in(monkeypatch, lambda options: FakeTask())
    assert main(["run", "--tag=night", f"--flagfile={config}", "--seed=0", "--experiments=1"]) == 0
    assert "ended:               1 experiments reached" in capsys.readouterr().out
    assert rows_of(place)[1].hypothesis == f"called with {arguments.replace(chr(34), '')}"
    assert rows_of(place)[1].score is not None


def answers(request: Request) -> Step:
    """What a model says that reads the brief and proposes; `try_start` may have asked before."""
    results = request.tool_results
    if not results:
        return calls("read_file", file_path="BRIEF.md")
    if "train_lib.py" not in results[0]:
        return says("Nothing to do.")
    if len(results) == 1:
        new = {"old_string": "LEARNING_RATE = 10.0", "new_string": "LEARNING_RATE = 5.0"}
        return calls("replace", file_path="train_lib.py", instruction="halve the rate", **new)
    if len(results) == 2:
        return calls("write_file", file_path="HYPOTHESIS.md", content="a smaller step\n\ncategory: optimizer\n")
    return says("All done.")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gemini") is None, reason="needs Gemini CLI: npm install -g @google/gemini-cli")
def test_gemini_cli_itself_proposes(tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "privacy": {"usageStatisticsEnabled": False}}
    (tmp_path / "home" / ".gemini").mkdir(parents=True)
    (tmp_path / "home" / ".gemini" / "settings.json").write_text(json.dumps(settings))
    config = next(path for path in CONFIGS if path.stem == "gemini_cli")
    monkeypatch.chdir(tmp_path)
    with GeminiServer(answers) as server:
        for name, value in {
            "GEMINI_CLI_HOME": str(tmp_path / "home"),
            "GEMINI_API_KEY": "a-key-of-nobody",
            "GEMINI_MODEL": MODEL,
            "GOOGLE_GEMINI_BASE_URL": server.url,
        }.items():
            monkeypatch.setenv(name, value)
        assert main(["run", "--tag=night", *tiny_run, f"--flagfile={config}", "--experiments=1"]) == 0
    assert server.requests, "it was another service that was asked"
    proposal = rows_of(tmp_path)[1]
    assert (proposal.hypothesis, proposal.category) == ("a smaller step", "optimizer")
    assert proposal.score is not None
