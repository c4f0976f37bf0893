"""`autoresearch check` and `brief` from the command line, on a fake task."""

import os
from pathlib import Path

from fakes import SOURCE
from hand_runs import DEEP, NIGHT, TRY, Cut, Made, edit

from autoresearch_jax import cli
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.commands.hand_text import base_of


def test_where_the_baseline_was_interrupted_the_same_command_is_named(call, monkeypatch):
    edit(DEEP)
    monkeypatch.setattr(Made, "task", Cut())
    status, _, said = call(*TRY)
    assert (status, "train_lib.py as committed, is measured first, in 3 runs" in said) == (130, True)
    for command in ("check", "brief"):
        assert "the same `autoresearch try` (or `run`) goes on" in call(command, "--tag=night")[2]
    figures = call("status", "--tag=night", "--format=json")[1]
    assert ("try" in figures["driver"], "branch" in figures) == (True, False)
    with NIGHT.lock():
        assert f"pid {os.getpid()}" in call("brief", "--tag=night")[2]


def test_check_measures_nothing_and_says_what_a_text_changes(begun, call):
    edit(DEEP + "NEW = 1\n")
    before = NIGHT.ledger.read_bytes()
    status, found, _ = call("check", "--tag=night", "--format=json")
    assert (status, found["outcome"], found["constants"]) == (0, "ok", "DEPTH 4 -> 6, NEW None -> 1")
    assert (found["lines_added"], found["lines_removed"], found["nodes_added"]) == (2, 1, 4)
    assert NIGHT.ledger.read_bytes() == before
    assert sorted(path.name for path in NIGHT.logs.glob("0*")) == ["0000"]
    measured = len(Made.task.measured)
    assert call("check", "--format=json")[1]["outcome"] == "ok"
    assert len(Made.task.measured) == measured


def test_check_before_the_run_begins_has_the_constants_that_it_would_begin_with(call):
    """With the flag file of the first `try`, tag and all; the committed file is the baseline of such a run."""
    Path("my.flags").write_text("--tag=night\n--set=PATTERN=L\n--undefok=set\n")
    edit(SOURCE.replace("LR = 0.5", "LR = 0.1"))
    status, found, said = call("check", "--flagfile=my.flags", "--set=DEPTH=3", "--format=json")
    assert (status, found["outcome"], "runs/night: no run of this tag has begun" in said) == (0, "ok", True)
    assert Made.task.traced[-1][0] == (
        SOURCE.replace("LR = 0.5", "LR = 0.1").replace("DEPTH = 4", "DEPTH = 3").replace('"SL"', "'L'")
    )
    edit(SOURCE)
    assert call("check", "--set=DEPTH=3", "--tag=")[0] == 0
    assert Made.task.traced[-1][0] == SOURCE.replace("DEPTH = 4", "DEPTH = 3")
    assert not NIGHT.path.exists()
    status, _, said = call("check", "--set=DEEP=3")
    assert (status, "--set: train_lib.py: " in said) == (1, True)
    assert "--tag= is empty" in call("try", "--tag=", "--hypothesis=x")[2]
    assert cli.main(["run", "--tag=night", "--experiments=0", "--set=DEPTH=3"]) == 0
    status, _, said = call("check", "--tag=night", "--set=DEPTH=5")
    assert (status, "--set DEPTH=5: this run began with 3" in said) == (2, True)


def test_check_says_why_a_text_would_not_be_measured_and_what_an_optimizer_would_lose(begun, call):
    for text, outcome, says in (
        ("LR = = 1\n", "rejected", "SyntaxError"),
        (SOURCE + "# more\n", "duplicate", "it changes nothing"),
        (SOURCE.replace('"none"', '"reject"'), "rejected", "no build"),
        (SOURCE + f'DATA = "{"x" * 9000}"\n', "rejected", "--max_literal_bytes"),
    ):
        Path("other.py").write_text(text)
        status, found, _ = call("check", "--tag=night", "--format=json", "other.py")
        assert (status, found["outcome"], found["file"]) == (4, outcome, "other.py")
        assert says in found["reason"]
    edit(SOURCE.replace("DEPTH = 4", "DEPTH = 99"))
    status, found, _ = call("check", "--tag=night", "--format=json")
    assert (status, found["outcome"]) == (0, "ok")
    assert "DEPTH is 99 now" in found["objection"]


def test_check_shows_the_score_of_the_same_program_as_results_do(begun, call, capsys):
    edit(SOURCE + "# more\n")
    assert cli.main(["results", "--tag=night"]) == 0
    score = capsys.readouterr().out.splitlines()[1].split("  ")
    (shown,) = (cell.strip() for cell in score if "+-" in cell)
    reason = call("check", "--tag=night", "--format=json")[1]["reason"]
    assert f"with {shown})" in reason
    Path("BRIEF.md").touch()
    assert f"with {shown})" not in call("check", "--tag=night", "--format=json")[1]["reason"]


def test_brief_is_the_page_of_the_next_experiment(begun, call, capsys):
    assert cli.main(["brief", "--tag=night"]) == 0
    page = capsys.readouterr().out
    assert "Experiment 1" in page
    assert SOURCE.strip() in page
    assert "`autoresearch try --tag=night`" in page
    assert "HYPOTHESIS.md" not in page, "which a driver's agent writes"
    status, found, _ = call("brief", "--tag=night", "--format=json")
    assert (status, found["experiment"], found["page"]) == (0, 1, page)
    assert call("brief", "--tag=gone")[0] == 1


def test_another_value_for_a_line_that_was_kept_is_a_change_of_the_champion():
    kept, told = {0: "def f(x):\n    return x\n", 1: "def f(x):\n    x = 2 * x\n    return x\n"}, list[str]()
    source = kept[1].replace("2 * x", "3 * x")  # nearer to the baseline, which has one line less
    words = Path("train_lib.py"), source, kept, None, lambda base, ours, theirs: None, None, told.append
    assert base_of(TRAINING_FILE, *words) == kept[1]
    assert "taken as a change of the champion, experiment 1" in told[0]
