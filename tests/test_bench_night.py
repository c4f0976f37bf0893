"""What bench_night makes of nights: a ledger, random changes, the table and the figures."""

import importlib
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from autoresearch_jax.measurement import Measurement, Status
from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.records import Conclusion, Intent, Kind, Purpose, Verdict

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)


@pytest.fixture
def loops() -> ModuleType:
    return importlib.import_module("bench_night_loops")


@pytest.fixture
def reports() -> ModuleType:
    return importlib.import_module("bench_night_report")


def test_a_night_is_read_from_the_ledger_of_its_run(loops: ModuleType, tmp_path: Path) -> None:
    now = 1000.0
    night = []
    with closing(Ledger.open(tmp_path / "ledger.db", clock=lambda: now)) as ledger:

        def experiment(name: str, began: float, scores: list[float], outcome: tuple[Status, Verdict | None]) -> int:
            nonlocal now
            now = began
            row = ledger.begin_experiment(Intent(Kind.PROPOSAL if night else Kind.BASELINE, name))
            night.append(row.id)
            ledger.set_program(row.id, name)
            for seed, score in enumerate(scores):
                trial = ledger.begin_trial(row.id, seed, Purpose.CANDIDATE if row.id else Purpose.CHAMPION)
                now += 10
                ledger.finish_trial(trial.id, Measurement(Status.OK, score, seed))
            status, decision = outcome
            if decision is not None:
                score = sum(scores) / len(scores) if scores else None
                ledger.conclude(row.id, Conclusion(status, score, decision, "", name, 1.0))
            return row.id

        experiment("baseline", 1005.0, [1.5, 1.7], (Status.OK, Verdict.KEEP))
        kept = experiment("kept", 1030.0, [1.2, 1.4], (Status.OK, Verdict.KEEP))
        experiment("same", 1060.0, [], (Status.DUPLICATE, Verdict.DISCARD))
        experiment("worse", 1070.0, [1.9], (Status.OK, Verdict.DISCARD))
        trial = ledger.begin_trial(kept, 7, Purpose.CHAMPION)
        now = 1090.0
        ledger.finish_trial(trial.id, Measurement(Status.OK, 1.35, 7))
        experiment("cut short", 1095.0, [1.0], (Status.OK, None))
        options = loops.Options(120.0, 10.0, 0, None, quick=False)
        found, source = loops.read_night(ledger, "full", options, 1000.0, 120.0)
    assert source == "kept"
    assert found.curve == [(15.0, pytest.approx(1.6)), (50.0, pytest.approx(1.35))], "from its run as champion"
    assert found.claimed == pytest.approx(1.35)
    assert (found.experiments, found.kept, found.outcomes["duplicate"], found.trials) == (2, 1, 1, 7)
    assert found.baseline_seconds == 30.0
    assert found.per_hour == pytest.approx(2 * 3600 / 90)
    assert found.per_hour_in_all == pytest.approx(2 * 3600 / 120)


def test_a_random_change_moves_one_or_two_constants_to_other_values_of_their_rows(loops: ModuleType) -> None:
    space = [
        Constant("DEPTH", IntRange(1, 2)),
        Constant("WIDTH", IntRange(1, 9, log=True)),
        Constant("LR", FloatRange(0.01, 1.0, log=True)),
        Constant("DECAY", FloatRange(0.0, 0.4)),
        Constant("PATTERN", Choices(("S", "L"))),
    ]
    now = {"DEPTH": 1, "WIDTH": 3, "LR": 0.1, "DECAY": 0.0, "PATTERN": "L"}
    draw = random.Random(0)
    changes = [loops.draw_change(space, now, draw) for _ in range(300)]
    assert {len(change) for change in changes} == {1, 2}
    rows = {row.name: row.values for row in space}
    assert {name for change in changes for name in change} == rows.keys()
    for name, value in (pair for change in changes for pair in change.items()):
        assert rows[name].contains(value)
        assert value != now[name]
    rates = [change["LR"] for change in changes if "LR" in change]
    assert 0.3 < sum(rate < 0.1 for rate in rates) / len(rates) < 0.7, "spread over magnitudes"


def test_the_table_counts_no_duplicates_and_says_when_the_bare_loop_was_overtaken(
    reports: ModuleType, tmp_path: Path
) -> None:
    bare = reports.Night(
        *("greedy", {}, 1200.0, 15.0, [(15.0, 1.4), (900.0, 1.2)], {"keep": 1, "discard": 70}, 72, 1.2),
        measured=(1.28, 1.3, 1.32),
    )
    outcomes = {"keep": 1, "refactoring": 1, "pruned": 4, "duplicate": 9}
    full = reports.Night(
        *("full", {}, 1200.0, 120.0, [(100.0, 1.4), (480.0, 1.29)], outcomes, 30, 1.29), measured=(1.28,)
    )
    never = replace(full, variant="no_prune", curve=[(100.0, 1.4)], measured=())
    lines = reports.table([full, never, bare]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["full", "6", "9", "20", "18", "30", "4", "2", "1.4000", "1.2900", "1.2800", "8.0 min"]
    assert (cells[3][-2], cells[3][-1]) == ("-", "never")
    assert (cells[4][-2], cells[4][-1]) == ("1.3000 (1.2800 .. 1.3200)", "15.0 min")
    assert reports.figures([full, never, bare]) == {
        "best_val_bpb_full": "1.2800",
        "experiments_per_hour_full": "20.0",
        "best_val_bpb_greedy": "1.3000",
        "experiments_per_hour_greedy": "215.7",
    }
    for night in (full, bare):
        reports.save(night, tmp_path / "night.json")
        assert reports.load(tmp_path / "night.json").curve == night.curve
    reports.plot([full, never, bare], tmp_path / "night.svg")
    assert "val_bpb of the champion" in (tmp_path / "night.svg").read_text()
