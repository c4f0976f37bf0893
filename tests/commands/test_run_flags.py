"""A run knows its flags: later commands on it take them, and refuse by name what it is bound to."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from repositories import make_repository
from task_stand_in import stand_in

from autoresearch_jax import cli
from autoresearch_jax.commands.options import kept_flags, list_flags
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import FLAGS, MACHINE_FLAGS
from autoresearch_jax.report.history import read_history

NIGHT = RunFolder(Path("runs/night"))
SET = ("--set=LR=0.4", "--set=PATTERN=L")
BEGUN = ("--budget_seconds=7", "--judge_tokens=900", "--sequence_length=64", "--decision=greedy", "--data_dir=/of/mine")


class Asked:
    """What tasks were asked for, the last one last."""

    options: list[TaskOptions] = []  # noqa: RUF012  # set anew by each test


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A repository that is the present folder, and tasks of milliseconds with the budget of their flags."""

    def make(options: TaskOptions) -> FakeTask:
        Asked.options.append(options)
        task = FakeTask()
        task.budget = options.budget
        return task

    make_repository(tmp_path, SOURCE, PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Asked, "options", [])
    stand_in(monkeypatch, make)
    return tmp_path


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys) -> Call:
    def command(*words: str) -> tuple[int, str, str]:
        status = cli.main(list(words))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def night(call: Call) -> None:
    """A run that kept something."""
    assert call("run", "--tag=night", "--experiments=4", "--seed=0", *SET, *BEGUN)[0] == 0


def kept() -> dict[str, str]:
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        return {name: str(ledger.settings()[name]) for name in (FLAGS, MACHINE_FLAGS)}


def test_each_flag_of_a_run_says_what_later_commands_make_of_it():
    names = {flag.name for flag in list_flags(RunOptions())}
    assert names - kept_flags(RunOptions).keys() == {"tag", "run_dir"}


def test_only_the_tag_is_typed_again_and_what_is_typed_and_the_same_is_fine(night, call, place):
    before = kept()
    for words in (["run"], ["audit", "--runs=2"], ["audit", "--ablate", "--runs=2"], ["trial"]):
        status, _, said = call(*words, "--tag=night")
        assert status == 0, said
        assert "the run has" not in said
        task = Asked.options[-1]
        assert task == Asked.options[0]
        assert (task.budget_seconds, task.judge_tokens, task.dataset.sequence_length) == (7.0, 900, 64)
        assert str(task.dataset.data_dir) == "/of/mine"
    assert kept() == before

    (place / "my.flags").write_text("--tag=night\n" + "\n".join(BEGUN) + "\n--experiments=4\n--undefok=experiments\n")
    for command in ("run", "audit"):
        status, _, said = call(command, "--flagfile=my.flags", "--undefok=decision")
        assert status == 0, said
        assert "the run has" not in said
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        seed = ledger.settings()["seed"]
    same = ["--editable=./train_lib.py", f"--editable={place / 'train_lib.py'}", f"--seed={seed}", "--set=LR=0.4"]
    for word in same:
        status, _, said = call("run", "--tag=night", word)
        assert status == 0, said
    # so is what a default came to
    assert call("run", "--tag=plain", "--experiments=0", "--decision=greedy")[0] == 0
    seed = json.loads(Path("runs/plain/run.json").read_text())["seed"]
    for word in ("--budget_seconds=300", f"--seed={seed}"):
        assert call("run", "--tag=plain", word)[0] == 0


def test_what_may_change_is_taken_as_typed_said_in_one_line_and_kept(night, call):
    status, _, said = call("run", "--tag=night", "--experiments=5", "--keep_last=3")
    assert status == 0
    line = next(line for line in said.splitlines() if "the run has" in line)
    assert "--experiments=5 (the run has --experiments=4)" in line
    assert "--keep_last=3 (the run has " in line
    assert "--experiments=5" in kept()[FLAGS]
    status, out, said = call("run", "--tag=night")
    assert (status, "the run has" in said) == (0, False)
    assert "5 experiments reached" in out
    status, out, said = call("run", "--tag=night", "--experiments=none")
    assert "(the run has --experiments=5)" in said
    assert "8 experiments reached" in out, "as the page says"
    assert "--experiments" not in kept()[FLAGS]


def test_a_flag_without_use_for_another_proposer_is_left_out_and_that_is_said(call, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "")
    agent = "--agent_command=true"
    assert call("run", "--tag=night", "--experiments=0", "--proposer=hybrid", agent, *BEGUN)[0] == 0
    status, _, said = call("run", "--tag=night", "--proposer=constants")
    assert status == 0, said
    assert f"{agent} is left out" in said
    assert "--proposer=constants (the run has --proposer=hybrid)" in said
    assert "agent_command" not in kept()[FLAGS]
    assert call("run", "--tag=dear", "--experiments=0", "--proposer=hybrid", "--max_dollars=5", *BEGUN)[0] == 0
    status, _, said = call("run", "--tag=dear", agent)
    assert status == 0, said
    assert "--max_dollars=5.0 is left out" in said


def test_a_secret_is_not_kept_and_has_to_be_typed_again(call, monkeypatch):
    secret = "it's-a-secret-0123"
    monkeypatch.setenv("MY_TOKEN", secret)
    command = f'--agent_command=true "{secret}"'
    begin = ("run", "--tag=night", "--experiments=0", "--proposer=command", *BEGUN)
    assert call(*begin, command)[0] == 0
    assert "secret-0123" not in NIGHT.settings.read_text()
    status, _, said = call("run", "--tag=night")
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("autoresearch run: --agent_command: ")
    assert "type it again" in said
    status, _, said = call("run", "--tag=night", command)
    assert (status, "the run has" in said, "secret-0123" in said) == (0, False, False)
    assert call("run", "--tag=night", "--proposer=constants")[0] == 0, "which needs none"


def test_a_trial_has_the_flags_of_its_run_and_adds_its_constants(night, call):
    assert call("trial", "--tag=night", "--set=DEPTH=5", "--set=LR=0.2")[0] == 0
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        found = ledger.experiments()[-1].constants
        recorded = ledger.trials()[-2]
    assert (found["LR"], found["DEPTH"], found["PATTERN"]) == (0.2, 5, "L")
    # an experiment of it, too
    Path("runs/trials/snapshots").mkdir(parents=True)
    status, out, said = call("trial", f"--from=night:{recorded.experiment}", f"--seed={recorded.seed}")
    assert status == 0, said
    assert out.count("---") == 1
    assert f"\nrecorded_loss:       {recorded.value:.6f}\n" in out
    assert Asked.options[-1] == Asked.options[0]
    status, _, said = call("trial", "--from=night:0", "--budget_seconds=8")
    assert (status, "--budget_seconds=8.0 (the run has --budget_seconds=7.0)" in said) == (2, True)


COMMANDS = {
    **dict.fromkeys(("status", "results", "report", "watch", "audit", "sample"), "--tag=nihgt"),
    "verify": "nihgt",
    "trial": "--from=nihgt:0",
}


def test_what_cannot_be_is_refused_by_name(night, call, place):
    # another value where scores could not be compared
    asked = len(Asked.options)
    for command in ("run", "audit", "trial"):
        for word, had in (
            ("--budget_seconds=8", "--budget_seconds=7.0"),
            ("--budget_steps=5", "no --budget_steps"),
            ("--judge_tokens=none", "--judge_tokens=900"),
            ("--sequence_length=256", "--sequence_length=64"),
            ("--corpus=tinystories", "--corpus=stdlib"),
        ):
            status, out, said = call(command, "--tag=night", word)
            assert (status, out, said.count("\n")) == (2, "", 1), said
            assert said.startswith(f"autoresearch {command}: {word.split('=')[0]}"[:30])
            assert f"(the run has {had})" in said
            assert "leave it out" in said
            assert len(Asked.options) == asked
    # what only `run` is bound to
    for word in ("--seed=1", "--decision=lineage", "--editable=other.py", "--certify_share=0.3"):
        status, _, said = call("run", "--tag=night", word)
        assert (status, said.count("\n")) == (2, 1), said
        assert word in said
    # a flag file counts as typed
    (place / "other.flags").write_text("--budget_seconds=9\n")
    status, _, said = call("audit", "--tag=night", "--flagfile=other.flags")
    assert (status, "--budget_seconds=9" in said) == (2, True)

    # what is of this machine alone is in no report
    assert kept()[MACHINE_FLAGS] == "--data_dir=/of/mine"
    assert "data_dir" not in kept()[FLAGS]
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        assert "/of/mine" not in json.dumps(dict(read_history(ledger, NIGHT).settings))

    # an unknown tag is answered with those that there are
    assert call("run", "--tag=other/one", "--experiments=0", *BEGUN)[0] == 0
    for command, word in COMMANDS.items():
        status, out, said = call(command, word)
        assert (status, out, said.count("\n")) == (1, "", 1), said
        assert "nihgt" in said
        assert "night" in said.replace("nihgt", "")
        assert "other/one" in said
        assert not Path("runs/nihgt").exists()
