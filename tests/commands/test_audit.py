"""`autoresearch audit` from the command line, on a fake task."""

import json
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE, FakeTask
from repositories import make_repository
from task_stand_in import stand_in

from autoresearch_jax import cli
from autoresearch_jax.commands.audit import longer
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.types import Budget, Measurement, Scrutiny, Status

NIGHT = Path("runs/night")


class Gallery:
    """The task that the flags stand for, and all that were made."""

    factory = FakeTask
    made: list[FakeTask] = []  # noqa: RUF012  # set anew by each test


def make(options: TaskOptions) -> FakeTask:
    task = Gallery.factory()
    task.budget = options.budget
    Gallery.made.append(task)
    return task


def fake_tasks(patch: pytest.MonkeyPatch) -> None:
    """Tasks of the gallery, with a budget of one step unless a flag has another."""
    stand_in(patch, make)
    patch.setattr(TaskOptions, "budget", property(lambda options: Budget(steps=options.budget_steps or 1)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of the runs, with one that kept something."""
    repo = tmp_path_factory.mktemp("repo")
    make_repository(repo, SOURCE, PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repo)
        fake_tasks(patch)
        assert cli.main(["run", "--tag=night", "--experiments=8", "--decision=greedy", "--seed=0"]) == 0
        assert cli.main(["run", "--tag=idle", "--experiments=0", "--decision=greedy"]) == 0
    return repo / "runs"


@pytest.fixture
def place(finished, tmp_path, monkeypatch) -> Path:
    """Somewhere else: no repository, no training file, a copy of the runs."""
    shutil.copytree(finished, tmp_path / "runs", ignore=shutil.ignore_patterns("workspace"))
    monkeypatch.chdir(tmp_path)
    fake_tasks(monkeypatch)
    monkeypatch.setattr(Gallery, "factory", FakeTask)
    monkeypatch.setattr(Gallery, "made", [])
    return tmp_path


def figures(output: str) -> dict[str, str]:
    lines = output.split("\n\n")[1].splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def test_the_audit_of_the_holdout(place, capsys):
    assert cli.main(["audit", "--tag=night"]) == 0
    output = capsys.readouterr().out
    table = [line.split() for line in output.split("\n\n")[0].splitlines()]
    assert table[0] == ["subject", "runs", "loss", "holdout"]
    assert [row[:2] for row in table[1:]] == [["baseline", "6"], ["champion", "6"]]
    found = figures(output)
    assert found["verdict"] == "real"
    assert found["in_words"].startswith("the gain is real: the holdout, which steered nothing, shows ")
    assert float(found["gain_val_low"]) <= float(found["gain_val"]) <= float(found["gain_val_high"])
    assert float(found["gain_val"]) == pytest.approx(float(table[1][2]) - float(table[2][2]), abs=3e-6)
    assert float(found["gain_holdout"]) == pytest.approx(float(table[1][3]) - float(table[2][3]), abs=3e-6)
    assert (found["pairs"], found["holdout_readings"], found["failed_runs"]) == ("6", "1", "0")
    assert "first_failure" not in found
    (task,) = Gallery.made
    assert task.closed
    assert set(task.scrutinies) == {Scrutiny.AUDIT}


def test_each_reading_is_counted(place, capsys):
    for count in (1, 2):
        assert cli.main(["audit", "--tag=night", "--runs=2", "--format=json"]) == 0
        assert json.loads(capsys.readouterr().out)["holdout_readings"] == count
    for words in (["--ablate"], ["--transfer=8"]):
        assert cli.main(["audit", "--tag=night", "--runs=2", "--format=json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["holdout_readings"] == 2


def test_the_ablation(place, capsys):
    assert cli.main(["audit", "--tag=night", "--ablate", "--runs=3"]) == 0
    output = capsys.readouterr().out
    header, *rows = output.split("\n\n")[0].splitlines()
    assert header.split() == [
        "experiment",
        "kept_for",
        "gain",
        "gain_low",
        "gain_high",
        "verdict",
        "hypothesis",
        "note",
    ]
    found = figures(output)
    assert len(rows) == int(found["changes"]) > 1
    assert sum("earns its place" in row for row in rows) == int(found["earn_their_place"]) > 0
    assert found["in_words"].endswith("each is judged at 95 %, so about one in twenty is judged wrongly")
    assert set(Gallery.made[0].scrutinies) == {Scrutiny.SEARCH}


def test_a_transfer(place, capsys):
    assert cli.main(["audit", "--tag=night", "--transfer=8", "--transfer_budget=2.5", "--runs=2"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[0].split() == ["subject", "runs", "loss"]
    found = figures(output)
    assert (found["depth"], found["budget_steps"], found["verdict"]) == ("8", "3", "holds")
    assert "budget_seconds" not in found
    assert found["in_words"] == "the champion is better than the baseline at DEPTH 8 with 2.5 times the budget, too"
    assert Gallery.made[0].budget == Budget(steps=3)


class Timed(FakeTask):
    """Its clock counts in what a reference program takes."""

    def __init__(self) -> None:
        super().__init__()
        self.reference_seconds = 0.025


def test_an_audit_counts_in_what_its_run_counted_in(place, capsys, monkeypatch):
    with closing(Ledger.open(RunFolder(NIGHT).ledger)) as ledger:
        ledger.save_settings({"reference_seconds": 0.0125})
    monkeypatch.setattr(Gallery, "factory", Timed)
    for words in ([], ["--transfer=8"]):
        assert cli.main(["audit", "--tag=night", "--runs=2", *words]) == 0
        assert Gallery.made[-1].calibrated == [0.0125]


def on_another_device() -> FakeTask:
    task = FakeTask()
    task.terms = {**task.terms, "device_kind": "another fake"}
    return task


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (on_another_device, "device_kind a fake then, another fake now"),
        (lambda: FakeTask(fingerprint="other"), "fingerprint fake then, other now"),
    ],
)
def test_of_a_task_that_cannot_be_compared_no_audit_is_made(place, capsys, monkeypatch, factory, says):
    monkeypatch.setattr(Gallery, "factory", factory)
    for words in ([], ["--transfer=8"]):  # whose longer budget is no difference
        status, line = failing(["--tag=night", *words], capsys)
        assert (status, f"({says})" in line) == (1, True)
        assert Gallery.made[-1].measured == []


def test_a_longer_budget():
    assert longer(Budget(seconds=60.0), 2.0) == Budget(seconds=120.0)
    assert longer(Budget(steps=3), 1.1) == Budget(steps=4)


def failing(arguments: list[str], capsys) -> tuple[int, str]:
    status = cli.main(["audit", *arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, "one line"
    return status, captured.err.strip().removeprefix("autoresearch audit: ")


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ([], 2, "--tag is missing: name the run, such as --tag=nov20; there are idle, night in ./runs"),
        (["--tag=gone"], 1, "runs/gone/ledger.db: no ledger there; there are idle, night in ./runs"),
        (["--tag=night", "--runs=1"], 2, "flag --runs=1: must be at least 2, or there is no spread"),
        (
            ["--tag=night", "--ablate", "--transfer=8"],
            2,
            "--ablate, --certify and --transfer ask different questions: one at a time",
        ),
        (
            ["--tag=night", "--transfer_budget=3"],
            2,
            "--transfer_budget is for --transfer: name a depth, such as --transfer=8",
        ),
        (
            ["--tag=night", "--transfer=8", "--transfer_budget=1"],
            2,
            "flag --transfer_budget=1.0: must be above 1, such as 2",
        ),
        (
            ["--tag=idle"],
            1,
            "runs/idle: the champion is still the baseline: there is nothing to audit until `autoresearch run` has "
            "kept a change",
        ),
    ],
)
def test_bad_input_is_one_line(place, capsys, arguments, status, line):
    assert failing(arguments, capsys) == (status, line)
    assert all(task.measured == [] for task in Gallery.made)
    assert not (place / "runs/gone").exists()


@pytest.mark.parametrize("word", ["--editable=other.py", "--budget_steps=7"])
def test_what_the_run_is_bound_to_is_named(place, capsys, word):
    status, line = failing(["--tag=night", word], capsys)
    assert (status, line.startswith(f"{word} (the run has ")) == (2, True)
    assert Gallery.made == []


def test_a_driver_is_at_work(place, capsys):
    with RunFolder(NIGHT).lock():
        status, line = failing(["--tag=night"], capsys)
    assert status == 1
    assert line.endswith(" is at work on this run already")


class Depthless(FakeTask):
    @staticmethod
    def score(constants: dict) -> float:
        return FakeTask.score({"DEPTH": 6, **constants})


def test_a_training_file_without_a_depth(tmp_path, capsys, monkeypatch):
    page = PROGRAM.replace("| DEPTH | 2 .. 8 | layers |\n", "")
    make_repository(tmp_path, SOURCE.replace("DEPTH", "LAYERS"), page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Gallery, "factory", Depthless)
    fake_tasks(monkeypatch)
    assert cli.main(["run", "--tag=night", "--experiments=6", "--decision=greedy", "--seed=0"]) == 0
    capsys.readouterr()
    assert failing(["--tag=night", "--transfer=8"], capsys) == (
        2,
        "--transfer=8: the baseline, experiment 0: no top-level constant DEPTH; there are LR, LAYERS, PATTERN, FAULT",
    )


class Broken(FakeTask):
    def measure(self, candidate, **settings) -> Measurement:
        self.measured.append((candidate.program_hash, settings["seed"]))
        return Measurement(Status.CRASH, None, settings["seed"], error="made to")


def test_missing_figures_are_null_and_the_status_is_1(place, capsys, monkeypatch):
    monkeypatch.setattr(Gallery, "factory", Broken)
    assert cli.main(["audit", "--tag=night", "--format=json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["gain_val"], found["gain_holdout_low"], found["pairs"]) == (None, None, 0)
    assert [row["loss"] for row in found["subjects"]] == [None, None]
    assert found["verdict"] == "not measured"
    assert cli.main(["audit", "--tag=night"]) == 1
    text = figures(capsys.readouterr().out)
    assert text["gain_val"] == "null"
    assert text["first_failure"].endswith(": crash: made to")
    assert cli.main(["audit", "--tag=night", "--ablate"]) == 1
    assert figures(capsys.readouterr().out)["compared"] == "0"


class Stopped(FakeTask):
    def measure(self, candidate, **settings) -> Measurement:
        if len(self.measured) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().measure(candidate, **settings)


def test_a_signal_ends_an_audit_and_the_same_command_goes_on(place, capsys, monkeypatch):
    monkeypatch.setattr(Gallery, "factory", Stopped)
    assert failing(["--tag=night"], capsys) == (130, "interrupted; the same command goes on from here")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.setattr(Gallery, "factory", FakeTask)
    assert cli.main(["audit", "--tag=night"]) == 0
    assert len(Gallery.made[-1].measured) == 12 - 3
    found = figures(capsys.readouterr().out)
    assert (found["audit"], found["holdout_readings"]) == ("1", "1")
