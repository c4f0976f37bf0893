"""Scores by all runs so far: what a driver remembers is what a fresh process would read and make."""

from contextlib import closing
from dataclasses import replace

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import past_experiments, results_text
from autoresearch_jax.engine.records import Intent, Kind, Purpose
from autoresearch_jax.engine.state import concluded, read_state
from autoresearch_jax.types import Measurement, Metric, Status

METRIC = Metric("loss")


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger.open(tmp_path / "ledger.db")) as ledger:
        yield ledger


def measured(ledger: Ledger, program: str, values: list[float], verdict=Action.DISCARD, source="LR = 1\n"):
    """Adds an experiment with its runs, those of a champion if it is kept."""
    experiment = ledger.begin_experiment(Intent(Kind.PROPOSAL, source, {"LR": 1}, program)).id
    ledger.set_program(experiment, program)
    for value in values:
        run(ledger, experiment, value, Purpose.CHAMPION if verdict is Action.KEEP else Purpose.CANDIDATE)
    ledger.conclude(experiment, Status.OK, values[0], verdict, "why", "abc", 1.0)
    return ledger.experiment(experiment)


def run(ledger: Ledger, experiment: int, value: float, purpose=Purpose.CHAMPION, peak=2**30) -> None:
    trial = ledger.begin_trial(experiment, seed=len(ledger.trials()), purpose=purpose)
    ledger.finish_trial(trial.id, Measurement(Status.OK, value, trial.seed, {"peak_memory_bytes": peak}))


@pytest.fixture
def lineage_ledger(ledger):
    """A ledger of a run with the lineage rule, of a metric that falls."""
    ledger.save_settings({"decision": "lineage", "direction": "minimize"})
    return ledger


def test_a_further_run_moves_the_champion_its_duplicates_and_their_lines(lineage_ledger):
    ledger = lineage_ledger
    measured(ledger, "champion", [1.0, 1.01], Action.KEEP)
    twin = ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 1\n", {"LR": 1}, "twin")).id
    ledger.set_program(twin, "champion")
    ledger.conclude(twin, Status.DUPLICATE, 1.0, Action.DISCARD, "a twin", "def", 0.1)

    def shown():
        scores = {row.score for row in ledger.experiments()} | {ledger.scored_twin("champion", before=9).score}
        (score,) = scores
        lines = [line.split("\t")[1:3] for line in results_text(ledger, METRIC).splitlines()[1:]]
        assert [line[0] for line in lines] == [f"{score:.6f}"] * 2
        return score, [line[1] for line in lines]

    before, memory = shown()
    assert memory == ["1.0", ""]
    assert before == pytest.approx(1.005, abs=0.01)
    run(ledger, 0, 1.02, peak=2**31)
    after, memory = shown()
    assert memory == ["2.0", ""]
    assert after > before
    assert ledger.experiment(0).error == ledger.experiment(1).error > 0


def test_what_a_transaction_undid_was_never_there(lineage_ledger):
    ledger = lineage_ledger
    measured(ledger, "first", [1.0], Action.KEEP)
    before = (ledger.experiments(), results_text(ledger, METRIC), ledger.settings())

    def undone():
        with ledger.transaction():
            row = measured(ledger, "second", [0.5])
            run(ledger, 0, 9.0)
            ledger.save_settings({"budget_seconds": 60.0})
            assert ledger.settings()["budget_seconds"] == 60.0
            assert ledger.scored_twin("second", before=9) == row
            assert ledger.experiment(0).score > 1.0
            assert len(results_text(ledger, METRIC).splitlines()) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        undone()
    assert (ledger.experiments(), results_text(ledger, METRIC), ledger.settings()) == before
    assert ledger.scored_twin("second", before=9) is None
    assert (ledger.trials(1), len(ledger.trials()), ledger.open_trials()) == ([], 1, [])
    row = measured(ledger, "third", [0.7])
    assert (row.id, results_text(ledger, METRIC).splitlines()[2].split("\t")[1]) == (1, "0.700000")


class Noisy(FakeTask):
    """A task whose scores scatter, and whose runs differ in memory."""

    def __init__(self) -> None:
        super().__init__(noise=0.01)

    def measure(self, candidate, *, seed, **arguments):
        measurement = super().measure(candidate, seed=seed, **arguments)
        metrics = {**measurement.metrics, "peak_memory_bytes": seed % 1000 + 1}
        return replace(measurement, metrics=metrics) if measurement.value else measurement


def test_a_driver_knows_at_each_proposal_what_a_fresh_process_reads(bench):
    """All that is kept in memory at once: keeps, doubts, duplicates, failures, and a champion whose mean moves."""
    script = [
        *(moved(LR=0.495), moved(LR=0.9), moved(LR=0.1), moved(FAULT="crash"), moved(LR=0.5), moved(DEPTH=6)),
        *(moved(LR=0.105), moved(FAULT="reject"), moved(NO_SUCH=1), moved(LR=0.104), moved(LR=0.105), moved(LR=0.3)),
        *(moved(PATTERN="SSSL"), moved(LR=0.103), moved(DEPTH=5)),
    ]
    compared = []

    def compare(brief) -> None:
        with closing(Ledger.open_to_read(bench.folder.ledger)) as fresh:
            state = read_state(fresh)
            sigma = state.sigma
            assert brief.history == past_experiments(concluded(fresh), sigma)
            assert bench.folder.results.read_text() == results_text(fresh, METRIC)
            driver = loop._parts.ledger
            assert driver.experiments() == fresh.experiments()
            assert driver.trials() == fresh.trials()
            assert driver.lineage().posterior.gains.keys() == fresh.lineage().posterior.gains.keys()
            mine = read_state(driver)
            assert replace(mine, lineage=None) == replace(state, lineage=None)
            assert mine.sigma == sigma
        compared.append(sigma)

    loop = bench.loop(
        Noisy(),
        ScriptedProposer(script, compare),
        LineageRule(METRIC, LineageSettings()),
        max_experiments=len(script),
    )
    loop.run()
    rows = bench.ledger().experiments()
    assert len(compared) == len(script)
    assert len(set(compared)) > 2, "the noise floor moved"
    assert {row.status for row in rows} >= {Status.OK, Status.DUPLICATE, Status.CRASH, Status.REJECTED}
    assert sum(row.decision is Action.KEEP for row in rows) > 2
