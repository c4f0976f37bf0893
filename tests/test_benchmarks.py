"""What benchmarks of scripts/ make of runs: what they count, judge and print."""

import argparse
import importlib
import json
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from browser import find_chromium

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind, TrialRow
from autoresearch_jax.findings.format import Evidence, Finding, read_finding, write_finding
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange
from autoresearch_jax.types import Measurement, Status

SCRIPTS = Path(__file__).parent.parent / "scripts"


def load(name: str) -> ModuleType:
    """A module of scripts/, which import each other by plain names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module(name)


def test_four_in_flight_take_a_third_of_the_time_and_move_what_was_overtaken() -> None:
    bench = load("bench_flight")
    one, four = (bench.simulate("C", slots, "a seed") for slots in (1, 4))
    assert (one.moved, four.moved > 0) == (0, True)
    assert four.time < 0.31 * one.time
    assert one == bench.simulate("C", 1, "a seed")


TRAINING = 10.0  # seconds of the wall clock


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Two sessions; two experiments with trials, and one without between them."""
    path = tmp_path / "ledger.db"
    Ledger.open(path).close()
    trials = [  # experiment, finished_at, status, compile_seconds, compiled_programs
        (0, 120.0, "ok", 5.0, 4),
        (0, 133.0, "ok", 0.5, 0),  # 13 after the one before
        (1, 152.0, "ok", 5.0, 3),  # 19, 5 of them compiled
        (1, 160.0, "crash", 0.5, 0),
        (3, 180.0, "ok", 5.0, 3),  # experiment 2 was over in no trial
        (3, 230.0, "ok", 0.5, 0),  # by another driver
        (3, 242.5, "ok", 0.5, 0),  # 12.5
    ]
    with closing(sqlite3.connect(path)) as database, database:
        for session, began_at in ((1, 100.0), (2, 200.0)):
            database.execute("INSERT INTO sessions (id, began_at) VALUES (?, ?)", (session, began_at))
        for experiment, created_at in ((0, 100.0), (1, 133.0), (2, 161.0), (3, 162.0)):
            database.execute(
                "INSERT INTO experiments"
                " (id, kind, proposer, hypothesis, category, cost_dollars, constants, created_at, source)"
                " VALUES (?, 'proposal', '', '', '', 0, '{}', ?, '')",
                (experiment, created_at),
            )
        for number, (experiment, finished_at, status, compile_seconds, compiled) in enumerate(trials, start=1):
            metrics = {"compile_seconds": compile_seconds, "compiled_programs": compiled, "tokens_per_second": 1e4}
            metrics["wall_seconds"] = TRAINING
            database.execute(
                "INSERT INTO trials (id, experiment, seed, purpose, started_at, finished_at, ended, status, metrics)"
                " VALUES (?, ?, 0, 'candidate', 0, ?, ?, ?, ?)",
                (number, experiment, finished_at, number, status, json.dumps(metrics)),
            )
    return path


def test_overhead_is_the_time_between_two_ends_less_training_and_compilation(ledger: Path) -> None:
    bench = load("bench_loop")
    samples = bench.read_samples(ledger)
    assert [sample.overhead for sample in samples] == [None, 3.0, 4.0, None, None, 2.5]
    assert [sample.is_replicate for sample in samples] == [False, True, False, False, True, True]
    assert bench.median_overhead(samples) == 3.0
    assert bench.median_overhead(samples, replicates_only=True) == 2.75


def test_nothing_to_count_is_said(ledger: Path) -> None:
    bench = load("bench_loop")
    with pytest.raises(SystemExit, match="more --rounds"):
        bench.median_overhead(bench.read_samples(ledger)[:1])


def test_a_random_change_moves_one_or_two_constants_to_other_values_of_their_rows() -> None:
    bench = load("bench_night")
    space = [
        Constant("DEPTH", IntRange(1, 2)),
        Constant("WIDTH", IntRange(1, 9, log=True)),
        Constant("LR", FloatRange(0.01, 1.0, log=True)),
        Constant("DECAY", FloatRange(0.0, 0.4)),
        Constant("PATTERN", Choices(("S", "L"))),
    ]
    now = {"DEPTH": 1, "WIDTH": 3, "LR": 0.1, "DECAY": 0.0, "PATTERN": "L"}
    draw = random.Random(0)
    changes = [bench.draw_change(space, now, draw) for _ in range(300)]
    assert {len(change) for change in changes} == {1, 2}
    rows = {row.name: row.values for row in space}
    assert {name for change in changes for name in change} == rows.keys()
    for name, value in (pair for change in changes for pair in change.items()):
        assert rows[name].contains(value)
        assert value != now[name]
    rates = [change["LR"] for change in changes if "LR" in change]
    assert 0.3 < sum(rate < 0.1 for rate in rates) / len(rates) < 0.7, "spread over magnitudes"


def test_a_night_is_better_by_the_champions_trained_again_and_not_by_what_was_claimed() -> None:
    bench = load("bench_night")
    hybrid = bench.Night(40, 25, 4, (2, 1), Estimate(1.52, 0.03), (1.48, 1.5, 1.52), (1.7, 1.72, 1.74), 9.0)
    greedy = bench.Night(40, 39, 7, (0, 0), Estimate(1.4, 0.0), (1.58, 1.6, 1.62), (), 6.0)
    worse = replace(hybrid, again=(1.6, 1.61, 1.65))
    nights = {0: {"hybrid": hybrid, "greedy": greedy}, 3: {"hybrid": worse, "greedy": greedy}}
    found = bench.figures(nights)
    assert found["night_better_seeds"] == "1 of 2"
    assert (found["night_hybrid_val_bpb_0"], found["night_greedy_val_bpb_3"]) == ("1.5000", "1.6000")
    assert found["night_baseline_val_bpb_0"] == "1.7200"
    assert found["night_hybrid_reported_0"] == "1.520 +- 0.030"
    error = (0.03**2 + 0.02**2 / 3) ** 0.5
    assert float(found["night_reported_error_sigma_0"]) == pytest.approx(0.02 / error, abs=0.01)
    assert (found["night_hybrid_kept_0"], found["night_greedy_kept_0"]) == ("4", "7")
    assert found["night_greedy_trials_3"] == "40"
    lines = bench.table(nights).splitlines()
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert len(lines) == 2 + 4
    assert "1.4000" in lines[3], "what greedy claimed"


TRIAL = TrialRow(1, 0, 7, 10.0, 12.0, Status.OK, 1.0, {}, None, None)
GIVEN_BACK = replace(TRIAL, finished_at=None, status=None, value=None, interrupted_at=11.0)
CUT_OFF = replace(GIVEN_BACK, interrupted_at=None)
FAULT = "autoresearch run: program.md:3: 'at dawn' is not understood"

Judge = Callable[..., str]


@pytest.fixture
def judge() -> Judge:
    """What is wrong with lines that came at the times given."""
    bench = load("bench_start")

    def fault(lines: list[tuple[float, str]], trials: list[TrialRow], status: int, /, **start: Any) -> str:
        return bench.Came(lines, status, trials).fault(bench.Start("limits", "a start", "", **start))

    return fault


def test_the_table_has_forty_starts_and_each_kind_twice() -> None:
    bench = load("bench_start")
    assert len(bench.STARTS) == 40
    kinds = Counter(start.kind for start in bench.STARTS)
    assert len(kinds) == 13
    assert min(kinds.values()) == 2
    assert len({(start.kind, start.tried) for start in bench.STARTS}) == 40


@pytest.mark.parametrize(
    ("lines", "trials", "status", "fault"),
    [
        ([FAULT], [], 1, ""),
        ([FAULT], [GIVEN_BACK], 1, ""),
        ([FAULT], [], 2, "exit status 2"),
        ([FAULT], [], 0, "exit status 0"),
        ([], [], 1, "no line has"),
        (["autoresearch run: something else"], [], 1, "no line has"),
        ([FAULT, "and how"], [], 1, "more than a line: and how"),
        ([FAULT], [TRIAL], 1, "something was measured"),
        ([FAULT], [CUT_OFF], 1, "something was measured"),
        (["Traceback (most recent call last):", FAULT], [], 1, "a traceback"),
    ],
)
def test_a_refusal(judge: Judge, lines: list[str], trials: list[TrialRow], status: int, fault: str) -> None:
    found = judge([(9.0, line) for line in lines], trials, status, named="not understood", status=1)
    assert bool(found) == bool(fault)
    assert fault in found


def test_a_notice_comes_before_the_first_trial(judge: Judge) -> None:
    shows = ("^ended: ",)
    ended = (20.0, "ended:  1 second reached")
    assert judge([(9.0, FAULT), ended], [TRIAL], 0, named="not understood", shows=shows) == ""
    assert "had begun" in judge([(10.5, FAULT), ended], [TRIAL], 0, named="not understood", shows=shows)
    assert "no line has" in judge([(9.0, FAULT)], [TRIAL], 0, named="not understood", shows=shows)
    assert "no line has" in judge([ended], [TRIAL], 0, named="not understood", shows=shows)


def test_a_limit_is_lost_where_the_run_goes_on_without_a_word() -> None:
    bench = load("bench_start")
    start = bench.Start("limits", "a start", "", named="8 hours", limited=True)
    lines = {"said": [(9.0, "what ends the run: 8 hours")], "silent": [(9.0, "what ends the run: nothing")]}
    lost = {
        (words, len(trials)): bench.Came(lines[words], 0, trials).loses_limit(start)
        for words in lines
        for trials in ([], [TRIAL])
    }
    assert lost == {("said", 0): False, ("said", 1): False, ("silent", 0): False, ("silent", 1): True}


def test_a_command_is_called_as_a_new_user_has_it(tmp_path: Path) -> None:
    bench = load("bench_start")
    place, begun = bench.Place(tmp_path, {"PATH": "/usr/bin:/bin"}), time.time()
    came = place.call("echo one; echo two >&2; exit 3", tmp_path, {})
    assert [line for _, line in came.lines] == ["one", "two"]
    assert begun <= came.lines[0][0] <= came.lines[1][0] <= time.time()
    assert (came.status, came.trials) == (3, [])


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on PATH: apt-get install chromium")
def test_every_figure_is_a_line():
    pytest.importorskip("playwright")
    script = SCRIPTS / "bench_report.py"
    command = [sys.executable, str(script), "--experiments=25", "--seconds=1"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = re.findall(r"^  (\w+) {2,}\S", script.read_text().split('"""')[1], re.MULTILINE)
    assert len(named) == 10
    for name in named:
        assert re.search(rf"^{name}: [\d.]+$", printed, re.MULTILINE), name


CHANGE = "<<<<<<< SEARCH\nDEPTH = 2\n=======\nDEPTH = 1\n>>>>>>> REPLACE\n"
SETTINGS = {"fingerprint": "f", "platform": "cpu", "device_kind": "a CPU", "budget_steps": 20, "direction": "minimize"}
KEPT = Evidence(
    "cpu", "f", "20 steps", runs=3, decision="keep", date="2026-11-29", effect=0.2, error=0.01, probability=0.99
)


def idea(name: str) -> Finding:
    return Finding(name, "One layer", "architecture", "idea", "https://example.org", "0" * 12, "Why.", CHANGE)


def test_results_are_read_from_the_ledger(tmp_path: Path) -> None:
    bench = load("bench_ideas")
    path = tmp_path / "ledger.db"
    with closing(Ledger.open(path)) as ledger:
        ledger.save_settings(SETTINGS)
        ledger.begin_experiment(Intent(Kind.BASELINE, "DEPTH = 2\n"))
        ledger.conclude(0, Status.OK, 2.0, Action.KEEP, "the baseline", None, 1.0)
        for name, status in (("worse", Status.OK), ("failing", Status.CRASH), ("running", None)):
            row = ledger.begin_experiment(Intent(Kind.PROPOSAL, "DEPTH = 1\n", parent=0, finding=name))
            if status is Status.OK:
                trial = ledger.begin_trial(row.id, seed=1)
                ledger.finish_trial(trial.id, Measurement(status, 2.5, seed=1))
                decision = Decision(Action.DISCARD, "worse", Estimate(-0.4, 0.1), probability=0.01)
                ledger.record_decision(row.id, decision)
            if status is not None:
                ledger.conclude(row.id, status, None, Action.DISCARD, "out of range\nmore", None, 1.0)

    ideas = {name: idea(name) for name in ("worse", "failing", "running", "untried")}
    results = bench.read_results(path, ideas, run=2)
    assert results.keys() == {"worse", "failing"}
    worse, failing = results["worse"].evidence, results["failing"].evidence
    assert (worse.effect, worse.error, worse.probability, worse.runs) == (-0.4, 0.1, 0.01, 1)
    assert (worse.device_class, worse.budget, worse.decision) == ("cpu", "20 steps", "discard")
    assert (failing.effect, failing.runs, failing.decision) == (None, 0, "crash")

    text = bench.table(list(results.values()), [ideas["untried"]])
    assert "| worse | architecture | 2 | discard | 1 | -0.4000 | -0.5645 .. -0.2355 | 0.01 |" in text
    assert "| untried | architecture |  | not tried |" in text
    assert text.endswith("failing: out of range")


def test_evidence_is_added_to_the_page_in_place_of_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("bench_ideas")
    monkeypatch.setattr(bench, "SHIPPED", tmp_path)
    finding, path = idea("one-layer"), tmp_path / "one-layer.md"
    write_finding(path, finding)
    elsewhere = replace(KEPT, device_class="NVIDIA L4", decision="discard", effect=-0.1, probability=0.01)
    for evidence in (replace(KEPT, effect=0.1), KEPT):
        bench.write_evidence([bench.Measured(finding, evidence, 1, "")])
    assert read_finding(path) == replace(finding, evidence=(KEPT,), status="kept")
    bench.write_evidence([bench.Measured(finding, elsewhere, 1, "")])
    assert read_finding(path) == replace(finding, evidence=(KEPT, elsewhere), status="unclear")


def test_a_run_s_package_has_its_ideas_alone(tmp_path: Path) -> None:
    bench = load("bench_ideas")
    names = sorted(path.stem for path in bench.SHIPPED.glob("*.md"))[:2]
    bench.copy_package(tmp_path, [read_finding(bench.SHIPPED / f"{name}.md") for name in names])
    copied = tmp_path / "autoresearch_jax"
    assert sorted(path.stem for path in (copied / "ideas").glob("*.md")) == names
    assert any((copied / "ideas" / "bases").iterdir())
    assert (copied / "engine" / "loop.py").is_file()


def test_an_idea_with_an_effect_for_the_class_and_budget_is_measured_already() -> None:
    bench = load("bench_ideas")

    def has_effect(device_class: str, steps: int | None) -> bool:
        asked = argparse.Namespace(unmeasured=device_class, budget_seconds=None, budget_steps=steps)
        return bool(bench.has_effect(replace(idea("one-layer"), evidence=(KEPT,)), asked))

    assert has_effect("cpu", 20)
    assert has_effect("cpu", None)
    assert not has_effect("cpu", 30)
    assert not has_effect("NVIDIA L4", 20)
    failed = replace(idea("one-layer"), evidence=(replace(KEPT, effect=None),))
    assert not bench.has_effect(failed, argparse.Namespace(unmeasured="cpu", budget_seconds=None, budget_steps=None))
