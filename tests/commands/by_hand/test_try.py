"""`autoresearch try` from the command line, on a fake task."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from fakes import SOURCE, FakeTask
from hand_runs import DEEP, NIGHT, TRY, Cut, Made, edit
from repositories import git

from autoresearch_jax import cli
from autoresearch_jax.commands import try_
from autoresearch_jax.engine.inbox import HAND, Inbox
from autoresearch_jax.engine.integrity import ledger_file_differences
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind


def test_the_first_try_begins_the_run_and_a_keep_is_a_commit(place, call):
    edit(DEEP)
    status, found, said = call(*TRY, "--category=architecture", "--seed=0")
    assert (status, found["outcome"], found["experiment"]) == (0, "keep", 1)
    assert found["category"] == "architecture"
    assert found["probability"] > 0.5
    assert found["champion_experiment"] == 1
    assert git(place, "show", "autoresearch/night:train_lib.py") == DEEP.strip()
    assert git(place, "log", "-1", "--format=%s%n%(trailers:key=Proposer)", "autoresearch/night") == (
        f"deeper is better\nProposer: {HAND}"
    )
    assert Path("train_lib.py").read_text() == DEEP, "the checkout stays as it is"
    assert git(place, "rev-parse", "HEAD") == git(place, "rev-parse", "autoresearch/night^")
    assert "baseline" in said
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        assert [ledger.source(number) for number in (0, 1)] == [SOURCE, DEEP]


def test_the_exit_status_says_what_came_of_it_and_lines_for_people_have_the_reason(begun, call, capsys):
    for number, (text, status, outcome) in enumerate(
        [
            (SOURCE.replace("DEPTH = 4", "DEPTH = 2"), 3, "discard"),
            (SOURCE + "# a comment\n", 3, "duplicate"),
            (SOURCE.replace('"none"', '"reject"'), 4, "rejected"),
            (SOURCE.replace('"none"', '"crash"'), 4, "crash"),
        ],
        start=1,
    ):
        edit(text)
        found = call(*TRY)
        assert (found[0], found[1]["outcome"]) == (status, outcome)
        assert found[1]["reason"]
        assert call("status", "--tag=night", f"--why={number}", "--format=json")[1]["outcome"] == outcome
    edit(DEEP)
    assert cli.main(["try", "--tag=night", "--hypothesis=deeper"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert lines["outcome"].strip() == "keep"
    assert "loss" in lines["reason"]
    assert lines["loss"].strip().startswith("1.5")


def test_what_is_no_python_or_unchanged_is_answered_at_once_and_is_no_experiment(begun, call):
    status, _, said = call(*TRY)
    assert status == 1
    assert "train_lib.py: is the text of experiment 0, to the last character: change it first" in said
    edit("LR = = 1\n")
    status, found, _ = call(*TRY)
    assert (status, found["outcome"], found["experiment"]) == (4, "rejected", None)
    assert found["reason"].startswith("train_lib.py:1: SyntaxError")
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        assert len(ledger.experiments()) == 1
        assert Inbox(ledger).num_waiting() == 0


def test_a_change_of_an_older_champion_is_carried_over_and_says_so(begun, call):
    edit(SOURCE.replace("LR = 0.5", "LR = 0.1"))
    assert call(*TRY)[0] == 0
    edit(DEEP)
    status, found, said = call(*TRY)
    assert (status, found["experiment"]) == (0, 2)
    assert "train_lib.py: is a change of experiment 0, and the champion is experiment 1 by now" in said
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        assert ledger.source(2) == DEEP.replace("LR = 0.5", "LR = 0.1")
    edit(SOURCE.replace("DEPTH = 4", "DEPTH = 5"))
    status, found, said = call(*TRY)
    assert (status, found) == (1, {})
    assert "both change the same lines: make the change in the champion's text, which `git show autoresearch" in said
    assert call(*TRY, "--as_is")[1]["outcome"] == "discard"


def test_of_two_readings_the_one_counts_that_undoes_no_keep(begun, call):
    def check(text: str) -> tuple[int, str, str]:
        edit(text)
        status, found, said = call("check", "--tag=night", "--format=json")
        return status, found.get("constants", ""), said

    slow = SOURCE.replace("LR = 0.5", "LR = 0.1")
    edit(slow.replace("DEPTH = 4", "DEPTH = 6"))
    assert call(*TRY)[0] == 0
    status, constants, said = check(slow.replace('"SL"', '"SSSL"'))
    assert (status, constants) == (0, "PATTERN 'SL' -> 'SSSL'"), "and DEPTH stays"
    assert "is as near to experiment 1 as to experiment 0: as a change of experiment 0 it undoes nothing" in said
    status, constants, said = check(SOURCE.replace("LR = 0.5", "LR = 0.3").replace("DEPTH = 4", "DEPTH = 5"))
    assert (status, constants) == (0, "DEPTH 6 -> 5, LR 0.1 -> 0.3")
    assert "taken as a change of the champion, experiment 1, of which it takes nothing back" in said
    status, _, said = check(slow)
    assert status == 1
    assert "as a change of experiment 0 it adds nothing; as a change of experiment 1, the champion, it takes" in said
    assert "`git show autoresearch/night:./train_lib.py`" in said
    assert call("check", "--tag=night", "--as_is", "--format=json")[1]["constants"] == "DEPTH 6 -> 4"


def test_a_change_of_the_committed_text_leaves_the_run_its_own_constants(place, call, capsys):
    assert cli.main(["run", "--tag=night", "--experiments=0", "--seed=0", "--set=DEPTH=3"]) == 0
    capsys.readouterr()
    edit(SOURCE.replace("LR = 0.5", "LR = 0.1"))
    _, found, said = call(*TRY)
    assert found["outcome"] in ("keep", "discard")
    assert "train_lib.py: is a change of the last commit, and the run's baseline is another text (--set" in said
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        assert ledger.source(1) == SOURCE.replace("LR = 0.5", "LR = 0.1").replace("DEPTH = 4", "DEPTH = 3")


def test_nothing_waits_for_a_run_that_has_not_begun_and_a_missing_file_is_named(call):
    edit(DEEP)
    status, _, said = call(*TRY, "--no_wait")
    assert status == 2
    assert "runs/night has not begun" in said
    for words, remedy in (((*TRY, "--file=gone.py"), "--file"), (("check", "gone.py"), "behind `check`")):
        status, _, said = call(*words)
        assert (status, remedy in said) == (1, True)
        assert "gone.py: No such file or directory: name the training file" in said
    Path("train_lib.py").unlink()
    assert "task.toml" not in call(*TRY)[2]
    Path("task.toml").touch()  # that of a task of a command is told of
    status, _, said = call(*TRY)
    assert (status, "task.toml is here: with --task=command" in said) == (1, True)
    assert not NIGHT.path.exists()


def test_the_hypothesis_may_stand_beside_the_text(begun, call, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "mine.py").write_text(DEEP)
    words = ("try", "--tag=night", f"--file={folder / 'mine.py'}", "--format=json")
    assert (call(*words)[0], call(*words)[2].count("--hypothesis is missing")) == (2, 1)
    (folder / "HYPOTHESIS.md").write_text("# Hypothesis\n\nsix layers\n\ncategory: architecture\nwhy: features nest\n")
    status, found, said = call(*words)
    assert (status, found["hypothesis"], found["category"]) == (0, "six layers", "architecture")
    assert 'HYPOTHESIS.md: the hypothesis is taken from there: "six layers"' in said
    assert "is older than" not in said
    (folder / "mine.py").write_text(DEEP.replace('"SL"', '"SSL"'))
    os.utime(folder / "HYPOTHESIS.md", (1, 1))
    assert "it is older than experiment 1, which had the same words" in call(*words)[2]
    assert call("status", "--tag=night", f"--why={found['experiment']}", "--format=json")[1]["why"] == "features nest"
    edit(DEEP.replace("LR = 0.5", "LR = 0.1"))
    status, found, _ = call(*TRY, "--why=it  is\x1b[31m faster")
    assert call("status", "--tag=night", f"--why={found['experiment']}", "--format=json")[1]["why"] == "it is faster"


def test_without_a_driver_a_text_may_wait_for_the_next(begun, call):
    edit(DEEP)
    status, found, _ = call(*TRY, "--no_wait")
    assert (status, found) == (0, {"queue": 1, "outcome": "queued", "driver": None})
    assert ledger_file_differences(NIGHT.ledger) == []
    assert call(*TRY, "--no_wait")[1]["queue"] == 1, "it is there already"
    assert "1 text of `autoresearch try` not measured" in call("run", "--tag=night", "--experiments=0")[2]
    status, _, said = call("run", "--tag=night", "--experiments=1")
    assert (status, "not measured" in said) == (0, False)
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        assert [row.proposer for row in ledger.experiments()[1:]] == [HAND]


def test_a_driver_that_is_just_beginning_gets_the_text_once_it_has_a_baseline(call, monkeypatch):
    edit(DEEP)
    NIGHT.create()
    with NIGHT.lock():
        with monkeypatch.context() as patch:
            patch.setattr(try_, "BEGIN_SECONDS", 0.0)
            status, _, said = call(*TRY)
        assert (status, "--no_wait" in said, "has not begun with the baseline" in said) == (1, False, True)
        with closing(Ledger.open(NIGHT.ledger)) as ledger:
            ledger.begin_experiment(Intent(Kind.BASELINE, SOURCE, hypothesis="baseline"))
            assert call(*TRY, "--no_wait")[0] == 0
            assert Inbox(ledger).get(1).base == SOURCE, "which is not measured yet"


def test_a_secret_in_a_text_is_blanked_out_and_that_is_said(begun, call, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdef0123456789")
    edit(DEEP + 'NAME = "abcdef0123456789"\n')
    assert "train_lib.py: a secret of the environment in it is blanked out" in call(*TRY)[2]
    with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
        assert "abcdef" not in ledger.source(1)


class Held(FakeTask):
    """Its trials of full windows last until they are let go."""

    def __init__(self) -> None:
        super().__init__(noise=0.0001)
        self.begun, self.let_go = threading.Event(), threading.Event()

    def measure(self, candidate, **more):
        if 'PATTERN = "L"' in candidate.source:
            self.begun.set()
            assert self.let_go.wait(60)
        return super().measure(candidate, **more)


TRY_ELSEWHERE = """
import sys
from autoresearch_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TRY_ELSEWHERE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def driver(begun, monkeypatch):
    """A run whose next experiment is measured until it is let go."""
    task = Held()
    monkeypatch.setattr(Made, "task", task)
    with closing(Ledger.open(NIGHT.ledger)) as ledger:
        Inbox(ledger).add("held", "code", None, SOURCE.replace('PATTERN = "SL"', 'PATTERN = "L"'))
    return task


def test_beside_a_driver_a_text_is_handed_over_and_waited_for(driver, call, tmp_path):
    edit(DEEP)
    words = [*TRY, f"--run_dir={tmp_path / 'runs'}"]
    waiting: list[subprocess.Popen[str]] = []

    def hand_over() -> None:
        assert driver.begun.wait(60)
        waiting.append(start(*words))
        deadline = time.monotonic() + 60
        with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
            while Inbox(ledger).num_waiting() == 0 and time.monotonic() < deadline:
                time.sleep(0.05)
        driver.let_go.set()

    thread = threading.Thread(target=hand_over)
    thread.start()
    assert cli.main(["run", "--tag=night", "--experiments=2"]) == 0
    thread.join()
    out, err = waiting[0].communicate(timeout=60)
    assert out, err
    found = json.loads(out)
    assert (waiting[0].returncode, found["outcome"], found["experiment"]) == (0, "keep", 2)
    assert f"handed to pid {os.getpid()}" in err


def test_ctrl_c_leaves_a_text_in_the_queue(begun, tmp_path):
    edit(DEEP)
    with NIGHT.lock():
        process = start(*TRY)
        deadline = time.monotonic() + 60
        with closing(Ledger.open_to_read(NIGHT.ledger)) as ledger:
            while Inbox(ledger).num_waiting() == 0 and time.monotonic() < deadline:
                time.sleep(0.05)
        assert process.stderr is not None
        assert "handed to pid" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stays in the queue as 1" in err


def test_an_interrupted_try_goes_on_with_its_own_experiment(begun, call, monkeypatch):
    edit(DEEP)
    monkeypatch.setattr(Made, "task", Cut())
    status, _, said = call(*TRY)
    assert (status, "the same command goes on" in said) == (130, True)
    monkeypatch.setattr(Made, "task", FakeTask(noise=0.0001))
    status, found, said = call(*TRY)
    assert (status, found["experiment"]) == (0, 1)
    assert "is not decided on: that one counts" in said
