"""`autoresearch status`: what a run is at, for people and for scripts."""

import csv
import io
import json
from contextlib import closing

import pytest

from autoresearch_jax import cli
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import LiveWriter, Waiting
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.types import Measurement, Status


@pytest.fixture
def folder(tmp_path, monkeypatch) -> RunFolder:
    """A run of a baseline, a proposal that came to nothing, and one that is measured."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "runs/night")
    folder.create()
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings({"metric": "val_bpb", "direction": "minimize", "decision": "greedy"})
        ledger.begin_experiment(Intent(Kind.BASELINE, "LR = 1\n", hypothesis="baseline"))
        trial = ledger.begin_trial(0, 0)
        ledger.finish_trial(trial.id, Measurement(Status.OK, 1.5, 0))
        ledger.set_program(0, "a program")
        ledger.conclude(0, Status.OK, 1.5, Action.KEEP, "the baseline", "a" * 40, 2.0)
        ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 1\n", hypothesis="no proposal", proposer="gemini"))
        ledger.conclude(1, Status.REJECTED, None, Action.DISCARD, 'no JSON, "at all"', "b" * 40, 1.0)
        ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 2\n", hypothesis="=LR, doubled", proposer="constants"))
    return folder


def figures(capsys, *flags: str) -> dict:
    assert cli.main(["status", "--tag=night", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_proposer_and_reason_of_the_current_and_the_last_experiment(folder, capsys):
    found = figures(capsys, "--format=json")
    assert (found["current"], found["current_proposer"]) == ("2: =LR, doubled", "constants")
    assert (found["last"], found["last_outcome"], found["last_proposer"]) == ("1: no proposal", "rejected", "gemini")
    assert found["last_reason"] == 'no JSON, "at all"'


def test_what_is_waited_for_is_told_while_a_driver_is_at_work(folder, capsys):
    with folder.lock():
        writer = LiveWriter(folder)
        assert figures(capsys, "--format=json")["waiting"] is None
        writer.waits(Waiting("503 from the service", 1000.0, 1060.0))
        waiting = figures(capsys, "--format=json")["waiting"]
        assert waiting.startswith("503 from the service")
        assert waiting.count("1970-01-0") == 2
    assert folder.live.exists()
    assert figures(capsys, "--format=json")["waiting"] is None, "whoever waited is gone"


def test_a_service_that_the_run_goes_on_without_is_told_too(folder, capsys):
    with folder.lock():
        writer = LiveWriter(folder)
        writer.service(Waiting("gemini: 503", 1000.0, 1060.0))
        with closing(Ledger.open_to_read(folder.ledger)) as ledger:
            writer.measures(ledger.experiment(2), 5, "run 1")
        writer.ends(2)
        found = figures(capsys, "--format=json")
        assert found["service_down"].startswith("gemini: 503; since 1970-01-0")
        assert found["waiting"] is None
        writer.service(None)
        assert figures(capsys, "--format=json")["service_down"] is None


def test_several_that_run_are_named(folder, capsys):
    with closing(Ledger.open(folder.ledger)) as ledger, folder.lock():
        writer, rows = LiveWriter(folder, write_seconds=0), [ledger.experiment(2)]
        writer.measures(rows[0], 5, "run 1")
        writer.progress(5, {"phase": "train", "elapsed_seconds": 30.0, "budget_seconds": 60.0})
        assert "running" not in figures(capsys, "--format=json")
        proposal = Intent(Kind.PROPOSAL, "LR = 3\n", hypothesis="LR, tripled", proposer="gemini", parent=0)
        rows.append(ledger.begin_experiment(proposal))
        for row, action in zip(rows, (Action.MEASURE_CHAMPION, Action.MEASURE_CANDIDATE), strict=True):
            ledger.record_decision(row.id, Decision(action, f"reason of {row.id}"))
        writer.measures(rows[0], 6, "champion's run 4")
        writer.begins(rows[1])
        found = figures(capsys, "--format=json")
    assert found["current"] == "2: =LR, doubled; 3: LR, tripled"
    assert found["current_proposer"] == "constants, gemini"
    assert found["current_reason"] == "2: reason of 2; 3: reason of 3"
    assert found["running"] == "2: run 1  train 50%; 2: champion's run 4; 3: prepare"


def test_csv_has_a_row_a_figure(folder, capsys):
    expected = figures(capsys, "--format=json")
    assert cli.main(["status", "--tag=night", "--format=csv"]) == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["name", "value"]
    assert dict(rows) == {name: "" if value is None else str(value) for name, value in expected.items()}
    assert cli.main(["status", "--tag=night", "--format=csv", "--why=1"]) == 2
    assert "--format=csv" in capsys.readouterr().err


def test_what_an_experiment_changed(folder, capsys):
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.begin_experiment(
            Intent(Kind.PROPOSAL, "LR = 3\n# \x1b[2J\n", hypothesis="a step\nof 3", parent=0, parent_commit="a" * 40)
        )
    found = figures(capsys, "--diff=3", "--format=json")
    assert (found["made_from"], found["hypothesis"]) == (0, "a step of 3")
    assert found["diff"].splitlines()[-3:] == ["-LR = 1", "+LR = 3", "+# \x1b[2J"]
    assert cli.main(["status", "--tag=night", "--diff=3"]) == 0
    assert capsys.readouterr().out == found["diff"] + "\n"


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--diff=0",), 1, "--diff=0: a baseline is made from no other experiment"),
        (("--diff=9",), 1, "experiment 9"),
        (("--diff=1", "--why=1"), 2, "--why and --diff: one of them at a time"),
        (("--diff=1", "--format=csv"), 2, "--format=csv: a diff is no table"),
    ],
)
def test_a_diff_that_there_is_none_of(folder, capsys, flags, status, words):
    assert cli.main(["status", "--tag=night", *flags]) == status
    assert words in capsys.readouterr().err
