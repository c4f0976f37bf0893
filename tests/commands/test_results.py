"""`autoresearch results`: as CSV, and with a chart where the terminal can show it."""

import csv
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from nights import write_night
from terminals import Terminal, terminal

from autoresearch_jax import cli
from autoresearch_jax.commands import results
from autoresearch_jax.report.summary import JSON_FIELDS
from autoresearch_jax.report.terminal_chart import KEPT


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> list[str]:
    """Flags of a run of hostile words."""
    folder = write_night(tmp_path_factory.mktemp("runs") / "night", 30, hostile=True)
    return [f"--run_dir={folder.path.parent}", "--tag=night"]


def printed(capsys, *arguments: str) -> str:
    assert cli.main(["results", *arguments]) == 0
    return capsys.readouterr().out


def test_csv_has_all_that_json_has_and_no_word_is_changed(where, capsys):
    experiments = json.loads(printed(capsys, *where, "--format=json"))["experiments"]
    header, *rows = csv.reader(io.StringIO(printed(capsys, *where, "--format=csv"), newline=""))
    assert tuple(header) == JSON_FIELDS == tuple(experiments[0])
    assert len(rows) == len(experiments) == 30
    for row, experiment in zip(rows, experiments, strict=True):
        for cell, value in zip(row, experiment.values(), strict=True):
            if isinstance(value, list | dict):
                assert json.loads(cell) == value
            else:
                assert cell == ("" if value is None else str(value))


def test_csv_of_a_run_without_experiments_has_its_header(tmp_path, capsys):
    from autoresearch_jax.engine.ledger import Ledger

    (tmp_path / "new").mkdir()
    Ledger.open(tmp_path / "new/ledger.db").close()
    assert printed(capsys, f"--run_dir={tmp_path}", "--tag=new", "--format=csv") == ",".join(JSON_FIELDS) + "\n"


def shown(where, monkeypatch, screen: Terminal, *flags: str) -> list[str]:
    monkeypatch.setattr(sys, "stdout", screen.stream)
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(cli.main, ["results", *where, *flags])
        while not command.done():  # a terminal that nobody reads takes a few kB
            screen.read()
    assert command.result() == 0
    monkeypatch.undo()
    return screen.screen()


def test_the_chart_is_drawn_as_large_as_the_terminal(where, monkeypatch, capsys):
    with terminal(90, 30) as screen:
        monkeypatch.setenv("TERM", "xterm-256color")
        drawn = shown(where, monkeypatch, screen, "--plot")[-30:-1]
    assert KEPT in drawn[0]
    assert max(map(len, drawn)) == 90
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("obstacle", ["no terminal", "dumb", "small", "latin-1"])
def test_where_it_cannot_be_drawn_one_line_says_so_below_the_table(where, monkeypatch, capsys, obstacle):
    monkeypatch.setenv("TERM", "dumb" if obstacle == "dumb" else "xterm-256color")
    if obstacle == "no terminal":
        table = printed(capsys, *where)
        assert cli.main(["results", *where, "--plot"]) == 0
        captured = capsys.readouterr()
        assert captured.out == table
        said = captured.err
    else:
        with terminal(30 if obstacle == "small" else 90) as screen:
            if obstacle == "latin-1":
                screen.stream.reconfigure(encoding="latin-1", errors="replace")
            assert KEPT not in "".join(shown(where, monkeypatch, screen, "--plot"))
        said = capsys.readouterr().err
    assert said.startswith("autoresearch results: --plot: ")
    assert said.count("\n") == 1


def test_a_run_without_scores_has_no_chart(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as screen:
        results.print_chart([], None, screen.stream)
        assert screen.read() == ""
    assert "no experiment has a score" in capsys.readouterr().err


def test_a_chart_is_not_for_programs(where, capsys):
    assert cli.main(["results", *where, "--plot", "--format=csv"]) == 2
    assert capsys.readouterr().err.startswith("autoresearch results: --plot: ")
