"""The list of runs that `status` and `results` begin with where no tag is typed."""

import csv
import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import experiment_row
from nights import write_night

from autoresearch_jax import cli
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import LiveWriter, Waiting
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.runs import BY_HAND, latest_run, list_runs
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.types import Measurement, Status

FIELDS = ["tag", "when", "experiments", "champion", "state"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one night, trials by hand that are later, a ledger that is none, and other files."""
    tmp_path = tmp_path_factory.mktemp("runs")
    write_night(tmp_path / "a/deep", 3)
    write_night(tmp_path / "night", 8)
    with closing(Ledger.open(tmp_path / "trials/ledger.db")) as ledger:
        ledger.record_trial("LR = 1\n", Measurement(Status.OK, 1.5, 0), "as it stands", "a fingerprint")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/ledger.db").write_text("no ledger")
    (tmp_path / "notes.txt").touch()
    return tmp_path


def test_runs_are_listed_the_latest_last(runs):
    lines = {line.tag: line for line in list_runs(runs)}
    assert next(iter(lines)) == "broken"
    assert lines["broken"].state.startswith("cannot be read: ")
    assert (lines["trials"].state, lines["trials"].experiments) == (BY_HAND, 1)
    night = lines["night"]
    with closing(Ledger.open_to_read(night.folder.ledger)) as ledger:
        summary = summarize_run(ledger)
    assert night.champion == summary.lines()["champion_val_bpb"]
    assert " +- " in str(night.champion)
    assert (night.experiments, night.state) == (sum(summary.counts.values()), summary.ended)
    assert latest_run(list_runs(runs)).tag == "night", "which ended after the other one; trials by hand are no run"
    assert latest_run([lines["trials"]]).tag == "trials"


def test_a_driver_at_work_shows_with_what_it_waits_for(runs):
    folder = RunFolder(runs / "night")
    with folder.lock():
        writer = LiveWriter(folder)
        assert next(line for line in list_runs(runs) if line.tag == "night").state.startswith("at work: pid ")
        for trial in (1, 2):
            writer.measures(experiment_row(trial), trial, "run 1")
        assert next(line for line in list_runs(runs) if line.tag == "night").state.endswith(", 2 trials")
        writer.waits(Waiting("503 from the service", 1000.0, 1060.0))
        assert next(line for line in list_runs(runs) if line.tag == "night").state == "waits: 503 from the service"


def printed(capsys, *words: str) -> str:
    assert cli.main(list(words)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize("command", ["status", "results"])
def test_without_a_tag_the_runs_are_listed_and_the_latest_is_shown(command, runs, capsys):
    where = f"--run_dir={runs}"
    shown = {
        format: printed(capsys, command, where, "--tag=night", f"--format={format}") for format in ("text", "json")
    }
    table, latest, rest = printed(capsys, command, where).split("\n\n", 2)
    assert table.split("\n")[0].split() == FIELDS
    assert [line.split()[0] for line in table.split("\n")[1:]] == [line.tag for line in list_runs(runs)]
    assert latest == "latest: night"
    assert rest == shown["text"]
    found = json.loads(printed(capsys, command, where, "--format=json"))
    assert found["latest"] == json.loads(shown["json"])
    assert [list(run) for run in found["runs"]] == [FIELDS] * 4
    header, *rows = csv.reader(io.StringIO(printed(capsys, command, where, "--format=csv")))
    assert header == FIELDS
    assert [row[0] for row in rows] == [run["tag"] for run in found["runs"]]


def test_an_explanation_is_of_the_latest_run(runs, capsys):
    assert printed(capsys, "status", f"--run_dir={runs}", "--why=1") == printed(
        capsys, "status", f"--run_dir={runs}", "--tag=night", "--why=1"
    )


def test_trials_by_hand_have_no_category(runs, capsys):
    shown = printed(capsys, "results", f"--run_dir={runs}", "--tag=trials")
    assert "as it stands" in shown
    assert "a fingerprint" not in shown
