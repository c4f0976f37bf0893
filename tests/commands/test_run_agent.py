"""`autoresearch run --proposer=command`: its flags, and what is said before anything is measured."""

import subprocess
from pathlib import Path

import pytest
from absl import flags
from fakes import PROGRAM, SOURCE, FakeTask

from autoresearch_jax import cli
from autoresearch_jax.commands import run as run_command
from autoresearch_jax.commands.proposer_flags import missing_command

AGENT = "#!/bin/sh\nsed -i 's/^LR = .*/LR = 0.1/' train_lib.py\necho a smaller step\n"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A repository that is the present folder, with an agent in it and one beside it, and a task of milliseconds."""
    (tmp_path / "train_lib.py").write_text(SOURCE)
    (tmp_path / "program.md").write_text(PROGRAM)
    (tmp_path / "agent.sh").write_text(AGENT)
    (tmp_path / "agent.sh").chmod(0o755)
    for words in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=x", "-c", "user.email=x@y.org", "commit", "-qm", "a"),
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "untracked.sh").write_text(AGENT)
    (tmp_path / "untracked.sh").chmod(0o755)
    task = FakeTask()

    class FakeOptions:
        @classmethod
        def from_flags(cls, flag_values: flags.FlagValues) -> "FakeOptions":
            return cls()

        def make_task(self, run_folder: Path, editable: Path) -> FakeTask:
            return task

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_command, "TaskOptions", FakeOptions)
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main(["run", "--tag=night", "--experiments=1", "--proposer=command", *arguments])


@pytest.mark.parametrize("command", ["./agent.sh", "NAME=x sh agent.sh", "cd . && ./agent.sh", "sh -c ./agent.sh"])
def test_an_agent_of_the_repository_proposes(place, capsys, command):
    assert run(f"--agent_command={command}") == 0
    output = capsys.readouterr().out
    assert "a smaller step" in output
    assert "ended:               1 experiments reached" in output
    assert "# Experiment 1\n" in (place / "runs/night/llm/0001/BRIEF.md").read_text()


def test_an_agent_anywhere_by_its_whole_path(place, capsys):
    assert run(f"--agent_command={place / 'untracked.sh'}") == 0
    assert "a smaller step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--proposer=command needs --agent_command='...', the line of shell that starts your agent"),
        (("--agent_command= ",), "--proposer=command needs --agent_command="),
        (("--agent_command=no-such-agent --yes",), "--agent_command: no-such-agent: no such program: install it"),
        (("--agent_command=/no/such agent",), "--agent_command: /no/such: no such program"),
        (("--agent_command=./untracked.sh",), "--agent_command: ./untracked.sh is not in the repository beside train_"),
        (("--agent_command=sh 'x",), "--agent_command: sh 'x: no line of shell: No closing quotation"),
        (("--agent_command=true", "--agent_seconds=0"), "--agent_seconds=0: the agent needs some time"),
        (
            ("--agent_command=true", "--brief_tokens=900"),
            "--brief_tokens=900: program.md and train_lib.py alone take 1",
        ),
    ],
)
def test_what_is_refused_before_anything_is_measured(place, capsys, arguments, words):
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"autoresearch run: {words}")
    assert errors.count("\n") == 1
    assert not (place / "runs/night/logs").exists()


def test_a_page_without_a_table_will_do(place, capsys):
    (place / "program.md").write_text("## Goal\n\nLower it.\n")
    assert run("--agent_command=./agent.sh") == 0


@pytest.mark.parametrize(
    "command", ["if true; then x; fi", "$AGENT go", "(x)", "A=1 B=2 x", "exec x", '"$X" y', "{ x; }"]
)
def test_what_only_the_shell_can_know_is_left_to_it(place, command):
    assert missing_command(command, place / "train_lib.py", {"PATH": ""}) is None
