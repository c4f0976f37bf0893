"""Audits of a run on a fake task, whose scores are known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from audited import GAINS, RUNS, OverfittedTask, Silent, audits, by_name, merge_in, trials_of
from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.audit.audits import AuditError
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.integrity import ledger_page_differences
from autoresearch_jax.engine.plan import draw_audit_seeds, draw_seed
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.types import (
    CHARGED_COMPILE,
    Budget,
    Candidate,
    CandidateRejected,
    CompileCost,
    Measurement,
    Scrutiny,
    Status,
)


def test_an_honest_gain_is_real(night):
    task, observer = FakeTask(), Silent()
    found = audits(night, task, observer).holdout(RUNS)
    figures = found.figures
    assert found.is_measured
    assert (figures["verdict"], figures["pairs"], figures["kind"]) == ("real", RUNS, "holdout")
    assert (figures["audit"], figures["champion_experiment"], figures["holdout_readings"]) == (1, 3, 1)
    assert figures["gain_val"] == pytest.approx(0.5, abs=0.005)
    assert figures["gain_val_low"] < figures["gain_val"] < figures["gain_val_high"]
    assert figures["gain_holdout"] == pytest.approx(0.5, abs=0.005)
    assert (figures["failed_runs"], figures["first_failure"]) == (0, None)
    champion = by_name(found)["champion"]
    assert (champion["runs"], champion["loss"]) == (RUNS, pytest.approx(1.1, abs=0.003))
    assert champion["holdout"] == pytest.approx(1.1, abs=0.003)
    assert champion["holdout"] != champion["loss"]
    assert set(task.scrutinies) == {Scrutiny.AUDIT}
    assert [number for _, number, _ in observer.trials] == [1, 2, 3, 4, 5, 6, 7, 8]
    trials = trials_of(night.ledger())
    assert [trial.subject for trial in trials] == ["baseline", "champion", "champion", "baseline"] * 2, "in turn"
    assert len({trial.seed for trial in trials}) == RUNS
    assert not list(night.folder.snapshots.glob("audit*")), "logs are kept, and no snapshots"
    assert sorted(path.name for path in (night.folder.path / "logs/audit-0001").iterdir()) == ["baseline", "champion"]


def test_its_trials_are_in_the_ledger_and_no_part_of_the_search(night):
    ledger = night.ledger()
    before = (ledger.trials(), ledger.experiments())
    audits(night, FakeTask(), ledger=ledger).holdout(RUNS)
    (question,) = {trial.question for trial in ledger.audit_trials()}
    assert json.loads(question) == {"kind": "holdout", "champion": 3, "runs": RUNS}
    assert {trial.split for trial in ledger.audit_trials()} == {"holdout"}
    assert all(trial.answered_at is not None for trial in ledger.audit_trials())
    assert (night.ledger().trials(), night.ledger().experiments()) == before
    assert ledger_page_differences(night.folder.ledger) == []


def test_an_overfitted_gain_is_wear(night):
    found = audits(night, OverfittedTask()).holdout(RUNS)
    assert found.figures["verdict"] == "worn out"
    assert found.figures["gain_val"] == pytest.approx(0.5, abs=0.005)
    assert found.figures["gain_holdout"] == pytest.approx(0.0, abs=0.005)


class LuckyTask(FakeTask):
    """Has nothing left of what rates and depth gained in the search."""

    @staticmethod
    def score(constants):
        return FakeTask.score({**constants, "LR": 0.5, "DEPTH": 4})


def test_a_gain_that_shrinks_on_fresh_seeds_is_told(night):
    figures = audits(night, LuckyTask()).holdout(RUNS).figures
    reported = figures["gain_reported"]
    rows = night.ledger().experiments()
    assert reported == pytest.approx(rows[0].score - rows[3].score)
    assert figures["gain_val"] < reported / 2
    assert f"; the run reported {reported:.4g}, and on seeds that chose nothing val shows " in figures["in_words"]
    assert "reported" not in audits(night, FakeTask()).holdout(RUNS).figures["in_words"]


def test_each_reading_is_counted_and_has_seeds_of_its_own(night):
    ledger = night.ledger()
    readings = [audits(night, FakeTask(), ledger=ledger).holdout(2).figures["holdout_readings"] for _ in range(3)]
    assert readings == [1, 2, 3]
    used = [{trial.seed for trial in trials_of(ledger, number)} for number in (1, 2, 3)]
    of_search = {trial.seed for trial in ledger.trials()}
    assert len(set.union(*used, of_search)) == sum(map(len, used)) + len(of_search)


def test_seeds_of_audits():
    assert draw_seed(0, 3, 1) == 4338711228388420878, "on every machine"
    seeds = draw_audit_seeds(7, 1, 5, ())
    assert draw_audit_seeds(7, 1, 5, ()) == seeds
    assert draw_audit_seeds(7, 1, 8, ())[:5] == seeds
    assert not set(seeds) & set(draw_audit_seeds(7, 2, 5, ()))
    assert not set(seeds) & set(draw_audit_seeds(8, 1, 5, ()))
    assert draw_audit_seeds(7, 1, 4, {seeds[1]}) == [seeds[0], *seeds[2:]], "one that is in use is passed over"


def test_nothing_of_an_audit_reaches_a_proposer(bench):
    night = bench
    night.loop(FakeTask(), ScriptedProposer(GAINS)).run()
    audits(night, OverfittedTask()).holdout(2)
    audits(night, FakeTask()).ablation(2, merge_in(night))
    proposer = ScriptedProposer([*GAINS, moved(PATTERN="SSSL")])
    night.loop(FakeTask(), proposer, max_experiments=4).run()
    (brief,) = proposer.briefs
    assert brief.experiment == 4
    assert [outcome.experiment for outcome in brief.history] == [0, 1, 2, 3]
    assert brief.champion_score == pytest.approx(1.1, abs=0.003)


def test_each_change_is_worth_what_the_formula_says(night):
    task = FakeTask()
    found = audits(night, task).ablation(RUNS, merge_in(night))
    rows = by_name(found)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "1": "superseded",
        "2": "earns its place",
        "3": "earns its place",
    }
    assert rows["1"]["note"] == "LR was moved again by 3"
    assert rows["1"]["gain"] is None
    assert rows["2"]["gain"] == pytest.approx(0.1, abs=0.005)
    assert rows["3"]["gain"] == pytest.approx(0.2, abs=0.005)
    assert {row["kept_for"] for row in rows.values()} == {"gain"}
    assert rows["2"]["hypothesis"] == "DEPTH 6"
    figures = found.figures
    assert (figures["changes"], figures["compared"], figures["earn_their_place"]) == (3, 2, 2)
    assert figures["champion_loss"] == pytest.approx(1.1, abs=0.003)
    assert "one in twenty is judged wrongly" in figures["in_words"]
    assert len(task.measured) == 3 * RUNS


def test_only_the_audit_of_the_holdout_reads_it(night):
    ledger, task = night.ledger(), FakeTask()
    assert audits(night, task, ledger=ledger).ablation(2, merge_in(night)).figures["holdout_readings"] == 0
    assert audits(night, task, ledger=ledger).transfer(2, 8, 2.0).figures["holdout_readings"] == 0
    assert set(task.scrutinies) == {Scrutiny.SEARCH}
    assert len(ledger.audit_trials()) == 10
    assert {(trial.split, trial.holdout) for trial in ledger.audit_trials()} == {("val", None)}


def test_refactorings_conflicts_and_refusals_are_listed_and_not_measured(bench, run_git):
    helper = "\n\ndef helper(x):\n    return x + 1\n"
    start = SOURCE + helper + "\n\nmore = []\n\n\nstuff = [1]\n"
    (bench.repo / "train_lib.py").write_text(start)
    run_git(bench.repo, "commit", "-qam", "a helper")
    one = start.replace(helper, "")  # the same program
    two = one.replace("LR = 0.5", "LR = 0.3").replace("stuff = [1]", "stuff = [2]")
    three = two.replace("DEPTH = 4", "DEPTH = 6").replace("stuff = [2]", "stuff = [3]")
    four = three.replace('"SL"', '"SSSL"')
    script = [Proposal("edit", "code", source=source) for source in (one, two, three, four)]
    bench.loop(FakeTask(noise=0), ScriptedProposer(script)).run()

    class SmallMachine(FakeTask):
        def prepare(self, source: str, log_dir: Path) -> Candidate:
            if "SSSL" not in source.split("PATTERN = ")[1].split("#")[0]:
                raise CandidateRejected(Status.OOM, "does not fit")
            return super().prepare(source, log_dir)

    task = SmallMachine()
    found = audits(bench, task).ablation(2, merge_in(bench))
    rows = by_name(found)
    assert {name: (row["kept_for"], row["verdict"]) for name, row in rows.items()} == {
        "1": ("refactoring", "no effect"),
        "2": ("gain", "cannot be reverted"),
        "3": ("gain", "earns its place"),
        "4": ("gain", "cannot be reverted"),
    }
    assert rows["2"]["note"] == "later changes touch the same lines"
    assert rows["4"]["note"] == "without it the text is refused (oom): does not fit"
    assert len(task.measured) == 4


class ChargingTask(FakeTask):
    """Charges 7 s for compiling, unless told what was charged before."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[CompileCost] = []

    def measure(self, candidate: Candidate, *, compile_cost: CompileCost, **settings) -> Measurement:
        self.told.append(compile_cost)
        found = super().measure(candidate, **settings)
        charged = 7.0 if compile_cost.charged is None else compile_cost.charged
        return replace(found, metrics={**found.metrics, CHARGED_COMPILE: charged})


def test_a_champion_kept_as_a_refactoring_is_charged_what_its_twin_was(bench, run_git):
    helper = "\n\ndef helper(x):\n    return x + 1\n"
    (bench.repo / "train_lib.py").write_text(SOURCE + helper)
    run_git(bench.repo, "commit", "-qam", "a helper")
    better = SOURCE.replace("LR = 0.5", "LR = 0.1")
    script = [Proposal("edit", "code", source=source) for source in (better + helper, better)]
    bench.loop(ChargingTask(), ScriptedProposer(script)).run()
    champion = bench.ledger().experiments()[-1]
    assert (champion.status, champion.decision) == (Status.DUPLICATE, Action.KEEP)
    task = ChargingTask()
    audits(bench, task).holdout(2)
    assert sorted(cost.charged or 0.0 for cost in task.told) == [0.0, 0.0, 7.0, 7.0], "two of each"


def test_a_gain_at_another_depth(night):
    task = FakeTask()
    task.budget = Budget(steps=2)
    found = audits(night, task).transfer(RUNS, 8, 2.0)
    figures = found.figures
    assert figures["gain"] == pytest.approx(0.4, abs=0.005), "both have the same DEPTH, and LR is what is left"
    assert (figures["verdict"], figures["depth"], figures["budget_steps"]) == ("holds", 8, 2)
    assert figures["budget_seconds"] is None
    assert figures["in_words"] == "the champion is better than the baseline at DEPTH 8 with 2 times the budget, too"
    assert "holdout" not in found.table[0]
    assert by_name(found)["baseline"]["loss"] == pytest.approx(1.6, abs=0.003)


def test_a_gain_that_is_all_depth_cannot_be_transferred(bench):
    bench.loop(FakeTask(), ScriptedProposer([moved(DEPTH=6)])).run()
    expected = "champion and baseline are the same program at DEPTH 8: all of the gain is in DEPTH"
    with pytest.raises(AuditError, match=expected):
        audits(bench, FakeTask()).transfer(2, 8, 2.0)


def test_a_depth_that_cannot_be_set(bench):
    twice = SOURCE.replace("DEPTH = 4", "DEPTH = 4\nDEPTH = 6")
    bench.loop(FakeTask(), ScriptedProposer([Proposal("edit", "code", source=twice)])).run()
    ledger = bench.ledger()
    with pytest.raises(UsageError, match=r"^--transfer=8: the champion, experiment 1: the constant DEPTH is set 2"):
        audits(bench, FakeTask(), ledger=ledger).transfer(2, 8, 2.0)
    assert ledger.audit_trials() == []
