"""Why an experiment was kept or discarded, in a few lines."""

import io
from contextlib import closing

import pytest

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind, Purpose
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_experiment, print_experiments
from autoresearch_jax.report.why import explain, print_explanation
from autoresearch_jax.types import Measurement, Metric, Status

DISCARD, KEEP = Action.DISCARD, Action.KEEP


def enter(ledger, kind, runs, verdict, *, decision=None, without=(), status=Status.OK, parent=None):
    """Adds an experiment; `runs` are pairs of a purpose and a score."""
    intent = Intent(kind, "LR = 1\n", hypothesis=f"idea of {kind}", without=without, parent=parent)
    number = ledger.begin_experiment(intent).id
    ledger.set_program(number, f"program {number}")
    for purpose, score in runs:
        trial = ledger.begin_trial(number, len(ledger.trials()), purpose)
        error = None if score is not None else "no memory"
        ledger.finish_trial(trial.id, Measurement(status, score, trial.seed, error=error))
    if decision is not None:
        ledger.record_decision(number, decision)
    score = runs[-1][1] if runs else None
    ledger.conclude(number, status, score, verdict, f"the reason of {number}", "abc", 1.0)


@pytest.fixture
def ledger(tmp_path):
    """Of a run with the lineage rule: a gain, a lucky one that was reverted, a loss, and a failure."""
    with closing(Ledger.open(tmp_path / "ledger.db")) as ledger:
        ledger.save_settings({"metric": "loss", "direction": "minimize", "decision": "lineage"})
        enter(ledger, Kind.BASELINE, [(Purpose.CHAMPION, value) for value in (1.0, 1.001, 0.999)], KEEP)
        kept = Decision(Action.KEEP, "why", Estimate(0.01, 0.001), 0.99, 0.001)
        runs = [(Purpose.CANDIDATE, 0.99), *[(Purpose.CHAMPION, 0.9905)] * 3]
        enter(ledger, Kind.PROPOSAL, runs, KEEP, decision=kept, parent=0)
        lucky = [(Purpose.CANDIDATE, 0.985), *[(Purpose.CHAMPION, 0.993)] * 3]
        enter(ledger, Kind.PROPOSAL, lucky, KEEP, decision=kept, parent=1)
        out = Decision(Action.KEEP, "why", Estimate(0.001, 0.001), 0.8, 0.001)
        certify = [(Purpose.CERTIFY, 0.9904), (Purpose.CERTIFY, 0.9905), (Purpose.CHAMPION, 0.9903)]
        enter(ledger, Kind.REVERT, certify, KEEP, decision=out, without=(2,), parent=2)
        lost = Decision(Action.DISCARD, "why", Estimate(-0.02, 0.001), 0.001, 0.001)
        enter(ledger, Kind.PROPOSAL, [(Purpose.CANDIDATE, 1.01)], DISCARD, decision=lost, parent=3)
        enter(ledger, Kind.PROPOSAL, [(Purpose.CANDIDATE, None)], DISCARD, status=Status.OOM, parent=3)
        yield ledger


def lines_of(ledger, number):
    stream = io.StringIO()
    print_explanation(explain(ledger, number, at_work=False), stream)
    return dict(line.split(":", 1) for line in stream.getvalue().splitlines())


def test_a_keep_is_told_in_six_lines_that_a_person_reads(ledger):
    lines = lines_of(ledger, 1)
    assert list(lines) == ["experiment", "runs", "difference", "probability", "outcome", "now"]
    assert lines["experiment"].split(maxsplit=1) == ["1:", "idea of proposal"]
    assert lines["runs"].count("0.99") == 4
    assert lines["runs"].count("(champion)") == 3
    assert "0.0100 +- 0.0010 better" in lines["difference"]
    assert "0.99" in lines["probability"]
    assert "keep: the reason of 1" in lines["outcome"]
    assert lines["now"].endswith(": certified")


def test_a_loss_and_a_failure_have_no_now(ledger):
    lost = lines_of(ledger, 4)
    assert list(lost) == ["experiment", "runs", "difference", "probability", "outcome"]
    assert "worse" in lost["difference"]
    failed = lines_of(ledger, 5)
    assert list(failed) == ["experiment", "runs", "outcome"]
    assert failed["runs"].split() == ["oom:", "no", "memory"]


def test_what_was_reverted_and_what_reverted_it(ledger):
    assert lines_of(ledger, 2)["now"].endswith(": reverted")
    by = lines_of(ledger, 3)
    assert by["runs"].count("(certify)") == 2
    assert "now" not in by
    found = explain(ledger, 2, at_work=False)
    assert (found["certificate"], found["outcome"]) == ("reverted", "keep")
    assert found["probability_real"] < 0.5
    assert found["gain"] == 0.01, "as it was decided"
    assert found["gain_now"] < found["gain"]
    with pytest.raises(LedgerError):
        explain(ledger, 99, at_work=False)


def test_the_table_and_the_figures_tell_the_same(ledger):
    stream = io.StringIO()
    print_experiments(ledger, Metric("loss"), stream)
    rows = [line.split() for line in stream.getvalue().splitlines()[1:]]
    assert [row[1] for row in rows] == ["keep", "certified", "reverted", "keep", "discard", "oom"]
    assert [row[3] == "+-" for row in rows] == [True] * 4 + [False] * 2, "an estimate has its error"
    assert format_experiment(ledger.experiment(3)).split()[3] == "+-"
    summary = summarize_run(ledger)
    lines = summary.lines()
    assert (lines["certified"], lines["reverted"], lines["champion_experiment"]) == (1, 1, 3)
    mean, _, error = lines["champion_loss"].partition(" +- ")
    assert float(mean) == pytest.approx(ledger.experiment(3).score, abs=1e-3)
    assert float(error) > 0
    assert float(lines["gain"].partition(" +- ")[0]) == pytest.approx(0.0097, abs=0.002)
    assert lines["noise_floor"] > 0
    assert lines["champion_runs"] == 3


def test_the_greedy_rule_has_a_difference_and_no_probability(tmp_path):
    with closing(Ledger.open(tmp_path / "ledger.db")) as ledger:
        ledger.save_settings({"metric": "loss", "direction": "minimize", "decision": "greedy"})
        enter(ledger, Kind.BASELINE, [(Purpose.CHAMPION, 1.0)], KEEP)
        kept = Decision(Action.KEEP, "why", Estimate(0.5, 0.0))
        enter(ledger, Kind.PROPOSAL, [(Purpose.CANDIDATE, 0.5)], KEEP, decision=kept, parent=0)
        assert list(lines_of(ledger, 1)) == ["experiment", "runs", "difference", "outcome"]
        assert summarize_run(ledger).lines()["gain"] == 0.5
        assert summarize_run(ledger).lines()["champion_loss"] == "0.500000"
