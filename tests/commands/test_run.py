"""`autoresearch run`, `status` and `results` from the command line, on a fake task."""

import json
import re
from pathlib import Path

import pytest
from fakes import PROGRAM, RESULTS_HEADER, SOURCE, FakeTask
from hand_runs import Made
from repositories import git

from autoresearch_jax import cli
from autoresearch_jax.engine.run_folder import RunFolder


def figures(output: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in output.splitlines() if ":" in line and not line.startswith(" "))
    return {name: value.strip() for name, value in pairs}


def test_a_run_prints_its_table_its_gain_and_where_things_are(place, capsys):
    assert cli.main(["run", "--tag=night", "--experiments=6", "--seed=0"]) == 0
    output = capsys.readouterr().out
    found = figures(output)
    assert found["experiments"] == "6"
    baseline, champion = float(found["baseline_loss"]), float(found["champion_loss"].split(" +- ")[0])
    gain, error = map(float, found["gain"].split(" +- "))
    assert gain == pytest.approx(baseline - champion, abs=error / 10)
    assert champion < baseline
    assert found["branch"] == "autoresearch/night"
    assert git(place, "rev-parse", found["branch"]) == found["champion_commit"]
    assert (place / found["ledger"]).is_file()
    assert (place / found["results"]).read_text().startswith(RESULTS_HEADER)
    assert found["ended"] == "6 experiments reached"
    first, second = output.splitlines()[:2]
    assert re.fullmatch(r"   0  keep +1\.\d+ \+- 0\.\d+ +0\.\d s  baseline", first)
    assert second.startswith("      the baseline, 3 runs")
    assert Made.task.closed
    assert git(place, "status", "--porcelain") == "", "the run folder is not in the user's sight"
    assert json.loads((place / "runs/night/run.json").read_text())["seed"] == 0


def test_the_same_command_goes_on(place, capsys):
    assert cli.main(["run", "--tag=night", "--experiments=2"]) == 0
    measured = list(Made.task.measured)
    assert cli.main(["run", "--tag=night", "--experiments=4"]) == 0
    assert len(Made.task.measured) >= len(measured) + 2
    assert len(set(Made.task.measured)) == len(Made.task.measured), "nothing is measured twice"
    assert figures(capsys.readouterr().out)["experiments"] == "4"


def test_a_run_can_start_with_other_constants(place, capsys):
    """They are a commit of their own upon the user's, and what later calls say must agree."""
    head = git(place, "rev-parse", "HEAD")
    assert cli.main(["run", "--tag=night", "--experiments=0", "--set=LR=0.25"]) == 0
    found = figures(capsys.readouterr().out)
    assert git(place, "rev-parse", f"{found['branch']}^") == head
    assert git(place, "log", "-1", "--format=%s", found["branch"]) == "The run starts with LR = 0.25"
    changed = git(place, "diff", "--unified=0", head, found["branch"]).splitlines()
    assert [line for line in changed if re.match(r"[+-]\w", line)] == [
        "-LR = 0.5  # best at 0.1",
        "+LR = 0.25  # best at 0.1",
    ]
    assert git(place, "status", "--porcelain") == ""
    assert (place / "train_lib.py").read_text() == SOURCE
    assert cli.main(["run", "--tag=night", "--experiments=1", "--set=LR=0.25"]) == 0
    assert cli.main(["run", "--tag=night", "--experiments=1"]) == 0
    capsys.readouterr()
    assert cli.main(["run", "--tag=night", "--experiments=1", "--set=LR=0.75"]) == 2
    assert "--set LR=0.75: this run began with 0.25: leave it out, or choose another --tag" in capsys.readouterr().err
    # who sets what is so already starts from the user's own commit
    assert cli.main(["run", "--tag=same", "--experiments=0", "--set=LR=0.5"]) == 0
    assert git(place, "rev-parse", "autoresearch/same") == head


def test_status_and_results_of_a_run(place, capsys):
    cli.main(["run", "--tag=night", "--experiments=3"])
    capsys.readouterr()
    assert cli.main(["results", "--tag=night"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["0", "keep"]
    assert cli.main(["results", "--tag=night", "--format=json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert [row["experiment"] for row in parsed["experiments"]] == [0, 1, 2, 3]
    assert parsed["summary"]["experiments"] == 3
    assert cli.main(["status", "--tag=night"]) == 0
    found = figures(capsys.readouterr().out)
    assert found["driver"].startswith("none")
    assert (found["experiments"], found["current"]) == ("3", "null")
    assert found["ended"] == "3 experiments reached"
    assert 0.0002 < float(found["noise_floor"]) < 0.005, "the task's is 0.001"
    assert int(found["champion_runs"]) >= 2
    assert float(found["gain_sigma"]) > 5
    assert found["holdout_readings"] == "0"
    for number in range(4):
        assert cli.main(["status", "--tag=night", f"--why={number}", "--format=json"]) == 0
        why = json.loads(capsys.readouterr().out)
        assert why["decisions"][-1]["action"].startswith("keep" if why["outcome"] == "keep" else "discard")
        assert why["reason"] == why["decisions"][-1]["reason"]
        assert (why["certificate"] is not None) == (why["outcome"] == "keep" and number > 0)
        assert cli.main(["status", "--tag=night", f"--why={number}"]) == 0
        lines = [line.partition(":") for line in capsys.readouterr().out.splitlines()]
        assert lines[0][2].startswith(f"          {number}: ")
        assert 3 <= len(lines) <= 6
        said = {name: value.strip() for name, _, value in lines}
        assert said["outcome"] == f"{why['outcome']}: {why['reason']}"
    assert failing(["status", "--tag=night", "--why=99"], capsys)[0] == 1


def test_the_greedy_rule_says_what_it_is(place, capsys):
    assert cli.main(["run", "--tag=night", "--experiments=1", "--decision=greedy", "--baseline_runs=1"]) == 0
    assert "--decision=greedy keeps each candidate that scores better in one run" in capsys.readouterr().err
    assert len(Made.task.measured) == 2


def failing(arguments: list[str], capsys) -> tuple[int, str]:
    status = cli.main(arguments)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, "one line"
    return status, captured.err.strip()


def test_a_tag_that_is_missing_unknown_or_no_branch_name(place, capsys):
    status, line = failing(["run"], capsys)
    assert (status, line.startswith("autoresearch run: --tag is missing: ")) == (2, True)
    for command in ("status", "results"):
        status, line = failing([command], capsys)
        assert status == 2
        assert line.startswith(f"autoresearch {command}: --run_dir=./runs: no runs there: ")
        expected = f"autoresearch {command}: runs/gone/ledger.db: no ledger there; check --tag and --run_dir"
        assert failing([command, "--tag=gone"], capsys) == (1, expected)
    status, line = failing(["run", "--tag=a b"], capsys)
    assert status == 2
    assert line.startswith("autoresearch run: --tag=a b: git takes no branch of that name: use letters, digits, ")
    assert not (place / "runs").exists()


def test_a_page_that_no_run_can_follow(place, capsys):
    for page, status, says in (
        ("## Goal\n\nLower it.\n", 2, 'no table of constants under "You may change", which --proposer=constants needs'),
        (PROGRAM.replace("8 experiments", "lost <= 0.5"), 1, '"Stop when" names lost, but the metric is loss'),
    ):
        (place / "program.md").write_text(page)
        found = failing(["run", "--tag=night", "--proposer=constants"], capsys)
        assert found == (status, f"autoresearch run: program.md: {says}")
    assert Made.task.measured == []


def test_a_value_outside_its_range_is_a_warning_and_no_more(place, capsys):
    (place / "program.md").write_text(PROGRAM.replace("2 .. 8", "5 .. 8"))
    assert cli.main(["run", "--tag=night", "--experiments=1", "--proposer=constants"]) == 0
    warning = "program.md:12: DEPTH is 4 now, outside 5 .. 8: once moved it never comes back"
    assert capsys.readouterr().err.splitlines() == [
        f"autoresearch run: {warning}",
        "autoresearch run: what ends the run: 1 experiments",
    ]


def test_a_repository_that_takes_no_commit_is_found_before_the_baseline(place, capsys):
    (place / ".git/worktrees").write_text("in the way")
    status, line = failing(["run", "--tag=night"], capsys)
    assert status == 1
    assert ".git/worktrees" in line
    assert Made.task.measured == []
    assert not (place / "runs").exists()


def test_changes_that_are_not_committed(place, capsys):
    (place / "train_lib.py").write_text(SOURCE + "# more\n")
    assert failing(["run", "--tag=night"], capsys) == (
        1,
        "autoresearch run: train_lib.py has changes that are not committed, and the loop starts from the last commit: "
        "run git commit train_lib.py, or put them aside with git stash",
    )
    assert (place / "train_lib.py").read_text() == SOURCE + "# more\n"


def test_a_run_that_has_begun_goes_on_despite_changes_but_not_with_another_dataset(place, capsys, monkeypatch):
    cli.main(["run", "--tag=night", "--experiments=1", "--proposer=constants"])
    (place / "train_lib.py").write_text("LR = = 1\n")
    assert cli.main(["run", "--tag=night", "--experiments=2"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(Made, "task", FakeTask(fingerprint="other"))
    assert failing(["run", "--tag=night"], capsys) == (
        1,
        "autoresearch run: runs/night was started with other settings (fingerprint fake then, other now): "
        "use the same ones, or another --tag",
    )


def test_a_baseline_that_cannot_be_measured(place, capsys):
    (place / "train_lib.py").write_text("LR = = 1\n")
    git(place, "commit", "-qam", "break it")
    status = cli.main(["run", "--tag=night"])
    assert status == 1
    assert capsys.readouterr().err.endswith(
        "autoresearch run: the baseline, train_lib.py as committed, cannot be measured (rejected): "
        "line 1: invalid syntax\n"
    )


def test_a_second_driver(place, capsys):
    folder = RunFolder(Path("runs/night"))
    folder.create()
    with folder.lock():
        status, line = failing(["run", "--tag=night"], capsys)
    assert status == 1
    assert line.startswith("autoresearch run: runs/night: pid ")
    assert line.endswith(" is at work on this run already")
