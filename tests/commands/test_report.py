"""`autoresearch report`, from the command line."""

import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from nights import write_night

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_night(folder / "one", 40)
    write_night(folder / "two", 30, seed=1)
    return folder


def report(runs: Path, *flags: str) -> int:
    return main(["report", f"--run_dir={runs}", *flags])


def paths(text: str) -> dict[str, Path]:
    return {key: Path(value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_the_page_and_the_picture_are_beside_the_ledger(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(runs, "--tag=one") == 0
    written = paths(capsys.readouterr().out)
    assert written == {"report": runs / "one" / "report.html", "picture": runs / "one" / "progress.png"}
    page = written["report"].read_text(encoding="utf-8")
    assert "http-equiv" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert written["picture"].read_bytes().startswith(b"\x89PNG")
    with closing(Ledger.open_to_read(runs / "one" / "ledger.db")) as ledger:
        assert all(f'data-part="row-{row.id}"' in page for row in ledger.experiments())


def test_runs_are_compared_on_a_page_beside_them(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(runs, "--tag=one,two") == 0
    written = paths(capsys.readouterr().out)
    assert written["report"] == runs / "report-one-two.html"
    data = written["report"].read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0]
    assert [len(run["points"]) for run in json.loads(data)["runs"]] == [40, 30]


def test_runs_that_cannot_be_compared_say_in_what_they_differ(runs: Path, tmp_path: Path) -> None:
    for tag in ("one", "two"):
        shutil.copytree(runs / tag, tmp_path / tag)
    with closing(Ledger.open(tmp_path / "two" / "ledger.db")) as ledger:
        ledger.save_settings({"budget_seconds": 300.0})
    assert report(tmp_path, "--tag=one,two") == 0
    assert "they differ in budget_seconds" in (tmp_path / "report-one-two.html").read_text(encoding="utf-8")


def test_the_page_names_the_commands_that_begin_the_run_again(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "one")
    flags = ["--flag=a <b>", "--set=DEPTH=2", "--seed=7"]
    with closing(Ledger.open(tmp_path / "one" / "ledger.db")) as ledger:
        ledger.save_settings({"flags": shlex.join(flags), "seed": 7})
    assert report(tmp_path, "--tag=one", "--format=md") == 0
    page = (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("autoresearch run"))
    assert shlex.split(line) == ["autoresearch", "run", "--tag=one-again", *flags]


@pytest.mark.parametrize(
    ("flags", "named", "status"),
    [
        (["--tag=none"], "none", 1),
        ([], "--tag", 2),
        (["--tag=one,one"], "--tag=one,one", 2),
        (["--tag=a,b,c,d,e,f"], "at most 5", 2),
        (["--tag=../one"], "--tag", 2),
        (["--tag=one", "--format=pdf"], "format", 2),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str, status: int
) -> None:
    assert report(runs, *flags) == status
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_an_empty_run_and_one_of_another_version_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.create()
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings({"metric": "val_bpb", "direction": "minimize"})
    assert report(tmp_path, "--tag=new") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    shutil.copytree(runs / "one", tmp_path / "old")
    with closing(sqlite3.connect(tmp_path / "old" / "ledger.db")) as connection:
        connection.execute("PRAGMA user_version = 3")
    (tmp_path / "old" / "ledger.db.sha256").unlink(missing_ok=True)
    assert report(tmp_path, "--tag=old") == 1
    error = capsys.readouterr().err
    assert "old/ledger.db" in error
    assert len(error.splitlines()) == 1


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "two", tmp_path / "one")
    (tmp_path / "one" / "report.html").mkdir()
    assert report(tmp_path, "--tag=one") == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "one") in error
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "one").glob("*.partial"))
