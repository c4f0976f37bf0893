"""What the sequential rule does to the loop: runs, seeds, rulings and scores, on a fake task with a real ledger."""

import dataclasses
import errno
import math
import os
from statistics import fmean

import pytest
from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.measurement import Measurement, Metric, Scrutiny, Status, TermsChanged
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.search.decision import Step
from autoresearch_jax.search.loop import INTERRUPTED
from autoresearch_jax.search.records import Purpose, Verdict
from autoresearch_jax.search.run_folder import RunFolderError
from autoresearch_jax.search.sequential import SequentialDecision, SequentialSettings
from autoresearch_jax.search.standing import read_standing
from autoresearch_jax.search.task_failures import RunError

SETTINGS = SequentialSettings(baseline_runs=4, max_runs=6)
RULE = SequentialDecision(Metric("loss"), SETTINGS)
BETTER, WORSE = moved(LR=0.1), moved(LR=0.9)


def trials(ledger, experiment, purpose):
    return [trial for trial in ledger.trials(experiment) if trial.purpose is purpose]


def test_a_gain_is_measured_until_it_is_sure_and_then_afresh(bench, run_git):
    task = FakeTask()
    bench.loop(task, ScriptedProposer([BETTER, WORSE]), RULE).run()
    ledger = bench.ledger()
    baseline, gain, loss = ledger.experiments()
    assert [len(trials(ledger, 0, purpose)) for purpose in Purpose] == [0, 4], "no decision hung on the baseline's"
    won, fresh = (trials(ledger, 1, purpose) for purpose in Purpose)
    assert len(won) >= 2, "one run is never enough"
    pairs = {trial.seed for trial in won[:4]}
    assert pairs == {trial.seed for trial in ledger.trials(0)}, "each with a run of the champion, while there are such"
    assert len(fresh) == 4
    assert not {trial.seed for trial in fresh} & {trial.seed for trial in won}
    assert gain.score == pytest.approx(fmean(trial.value for trial in fresh))
    assert gain.score != pytest.approx(fmean(trial.value for trial in won), rel=1e-9)
    assert gain.reason.endswith(f"; {gain.score:.6f} in 4 runs on fresh seeds")
    message = run_git(bench.repo, "log", "-1", "--format=%B", "autoresearch/night")
    assert f"Loss: {gain.score:.6f}\nDelta: {gain.score - baseline.score:+.6f}\nRuns: {len(won) + 4}" in message
    assert (loss.decision, len(ledger.trials(2))) == (Verdict.DISCARD, 1), "what is clearly worse costs one run"
    looked_at = [seed for (_, seed), scrutiny in zip(task.measured, task.scrutinies, strict=True) if scrutiny == "keep"]
    assert looked_at == [ledger.trials(0)[0].seed, fresh[0].seed], "every row is probed once of what becomes champion"
    assert set(task.scrutinies) == {Scrutiny.SEARCH, Scrutiny.KEEP}


def test_each_ruling_is_written_down_with_its_noise_floor(bench):
    bench.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    ledger = bench.ledger()
    (first,) = ledger.rulings(0)
    values = [trial.value for trial in ledger.trials(0)]
    assert (
        first.reason
        == f"the baseline, 4 runs; the noise floor is {first.noise.sigma:.3g}, the standard deviation of a run"
    )
    assert ledger.experiment(0).reason == first.reason
    mean = fmean(values)
    geary = math.sqrt(math.pi / 2) * sum(abs(value - mean) for value in values) / math.sqrt(12)
    assert first.noise.sigma == pytest.approx(geary)
    rulings = ledger.rulings(1)
    assert rulings[-1].step is Step.KEEP
    assert len(rulings) == len(trials(ledger, 1, Purpose.CANDIDATE)), "one after each run"
    assert all(ruling.noise.degrees == 3 for ruling in rulings)
    assert read_standing(ledger).noise.degrees == 6, "the new champion's runs are pooled"


def test_a_candidate_in_doubt_has_the_champion_measured_too_and_its_score_moves(bench):
    doubtful = moved(LR=0.498)  # 0.002 better, and a run's standard deviation is 0.001
    bench.loop(FakeTask(), ScriptedProposer([doubtful]), RULE, max_experiments=1).run()
    ledger = bench.ledger()
    assert Step.MEASURE_CHAMPION in [ruling.step for ruling in ledger.rulings(1)]
    runs = trials(ledger, 0, Purpose.CHAMPION)
    assert len(runs) == 6
    assert ledger.experiment(0).score == pytest.approx(fmean(trial.value for trial in runs))
    line = bench.folder.results.read_text().splitlines()[1]
    assert line.split("\t")[1] == f"{ledger.experiment(0).score:.6f}"


def test_a_shorter_source_that_is_no_worse_is_a_simplification(bench):
    longer = SOURCE + 'UNUSED = "4444"\n'
    script = [
        Proposal("more words", "text", source=longer.replace("LR = 0.5", "LR = 0.1")),
        Proposal("fewer words", "text", source=SOURCE.replace("LR = 0.5", "LR = 0.1")),
    ]
    bench.loop(FakeTask(), ScriptedProposer(script), RULE).run()
    ledger = bench.ledger()
    _, gain, simpler = ledger.experiments()
    assert (gain.decision, gain.simplification) == (Verdict.KEEP, False)
    assert (simpler.decision, simpler.simplification) == (Verdict.KEEP, True), simpler.reason
    assert ", and it has 7 syntax nodes fewer (" in simpler.reason
    assert bench.folder.results.read_text().splitlines()[-1].split("\t")[3] == "keep"
    standing = read_standing(ledger)
    assert standing.champion.id == 2
    assert [score.seed for score in standing.anchor] == [trial.seed for trial in ledger.runs(gain)]


def test_a_source_is_not_simpler_for_giving_up_a_constant_of_the_page(bench):
    class Forgiving(FakeTask):
        """Takes PATTERN as the constant's value where a text has it no more."""

        @staticmethod
        def score(constants):
            return FakeTask.score({"PATTERN": "SL", **constants})

    source = SOURCE.replace('PATTERN = "SL"  # best as "SSSL"\n', "")
    bench.loop(Forgiving(), ScriptedProposer([Proposal("no PATTERN", "text", source=source)]), RULE).run()
    row = bench.ledger().experiment(1)
    assert row.decision is Verdict.DISCARD
    assert "syntax nodes" not in row.reason


class Flaky(FakeTask):
    """Fails in some of its measurements, counted from 0."""

    def __init__(self, failing, **arguments):
        super().__init__(**arguments)
        self._failing = failing

    def measure(self, candidate, *, seed, **arguments):
        if len(self.measured) in self._failing:
            self.measured.append((candidate.program_hash, seed))
            self.scrutinies.append(arguments["scrutiny"])
            return Measurement(Status.OOM, None, seed, error="no memory")
        return super().measure(candidate, seed=seed, **arguments)


def test_a_clock_that_failed_is_told_once_by_each_process(bench):
    class Doubtful(FakeTask):
        """All trials but that of the baseline's first run are timed by the wall clock."""

        def measure(self, candidate, **arguments):
            found = super().measure(candidate, **arguments)
            fault = "the accounts go backwards" if len(bench.ledger().trials()) > 1 else None
            return dataclasses.replace(found, metrics={**found.metrics, "clock_fault": fault})

    failed = 1
    for experiments in (1, 2):
        bench.recorder.notices.clear()
        bench.loop(Doubtful(), ScriptedProposer([BETTER, WORSE]), RULE, max_experiments=experiments).run()
        (notice,) = (text for text in bench.recorder.notices if "clock" in text)
        trials = bench.ledger().trials()
        assert f" in trial {trials[failed].id} (the accounts go backwards)" in notice
        failed = len(trials)  # the first one of the next process


def test_what_fails_on_a_fresh_seed_is_not_kept(bench, twin):
    probe = FakeTask()
    twin.loop(probe, ScriptedProposer([BETTER]), RULE).run()
    bench.loop(Flaky({len(probe.measured) - 2}), ScriptedProposer([BETTER]), RULE).run()
    row = bench.ledger().experiment(1)
    assert (row.status, row.score, row.decision) == (Status.OOM, None, Verdict.DISCARD)
    assert row.reason == "it failed when it was measured afresh as the champion: no memory"


def test_an_accident_of_the_baseline_costs_one_run(bench):
    bench.loop(Flaky({2, 3}), ScriptedProposer([]), RULE).run()
    ledger = bench.ledger()
    assert [str(trial.status) for trial in ledger.trials(0)] == ["ok", "ok", "oom", "oom", "ok", "ok"]
    assert len(ledger.runs(ledger.experiment(0))) == 4


def test_a_baseline_that_keeps_failing_ends_the_run(bench):
    with pytest.raises(RunError, match=r"cannot be measured \(oom\): no memory"):
        bench.loop(Flaky({2, 3, 4}), ScriptedProposer([]), RULE).run()


def test_a_failure_of_the_task_is_no_fault_of_a_candidate_that_was_scored(bench, twin):
    class Shaky(FakeTask):
        failures = 2

        def measure(self, candidate, **arguments):
            if len(self.measured) == 6 and self.failures:
                self.failures -= 1
                raise RuntimeError("the device is gone")
            return super().measure(candidate, **arguments)

    bench.loop(Shaky(), ScriptedProposer([BETTER]), RULE).run()
    twin.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    assert substance(bench.ledger()) == substance(twin.ledger())
    assert (bench.folder.log_dir(1) / "task_error.txt").read_text().count("Traceback") == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ETIMEDOUT])
def test_a_disk_that_fails_a_trial_ends_the_run_at_once_and_the_trial_stays_open(bench, twin, number):
    class Unlucky(FakeTask):
        def measure(self, candidate, **arguments):
            if len(self.measured) == 6:
                raise RuntimeError("no snapshot") from OSError(number, os.strerror(number), "the snapshots")
            return super().measure(candidate, **arguments)

    with pytest.raises(RunError, match=r"^the snapshots: .*disk.*; the same command goes on from here$"):
        bench.loop(Unlucky(), ScriptedProposer([BETTER]), RULE).run()
    assert bench.ledger().open_trial() is not None
    bench.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    twin.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    assert substance(bench.ledger()) == substance(twin.ledger())


def test_what_scores_are_compared_by_may_not_change_under_a_run(bench, twin):
    """It ends the run at once and costs no candidate anything; once it is mended the same command goes on."""

    class Moved(FakeTask):
        def measure(self, candidate, **arguments):
            if len(self.measured) == 6:
                raise TermsChanged("the dataset was made anew")
            return super().measure(candidate, **arguments)

    with pytest.raises(RunError, match=r"^the dataset was made anew; the same command goes on from here$"):
        bench.loop(Moved(), ScriptedProposer([BETTER]), RULE).run()
    assert bench.ledger().open_trial() is not None
    bench.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    twin.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    assert substance(bench.ledger()) == substance(twin.ledger())


def test_a_champion_that_became_another_program_is_not_measured(bench):
    class Updated(FakeTask):
        def prepare(self, source, log_dir):
            found = super().prepare(source, log_dir)
            return dataclasses.replace(found, program_hash=f"new {found.program_hash}")

    doubtful = [moved(LR=0.498 + number / 4000) for number in range(8)]
    bench.loop(FakeTask(), ScriptedProposer([]), RULE).run()
    with pytest.raises(RunError, match=r"the champion \(experiment 0\) is another program now \(new "):
        bench.loop(Updated(), ScriptedProposer(doubtful), RULE, max_experiments=8).run()


def test_a_rule_of_one_run_has_every_row_probed(bench):
    task = FakeTask()
    bench.loop(task, ScriptedProposer([BETTER])).run()
    assert task.scrutinies == [Scrutiny.KEEP, Scrutiny.KEEP]


def test_a_run_of_the_champion_without_a_score_is_no_evidence(bench):
    doubtful = moved(LR=0.498)
    bench.loop(Flaky({5}), ScriptedProposer([doubtful]), RULE, max_experiments=1).run()
    ledger = bench.ledger()
    runs = trials(ledger, 0, Purpose.CHAMPION)
    assert [run.status for run in runs].count(Status.OOM) == 1
    assert len(ledger.runs(ledger.experiment(0))) == len(runs) - 1
    assert not ledger.experiment(1).is_open


def test_a_champion_that_cannot_be_measured_any_more_ends_the_run_and_loses_nothing(bench):
    doubtful = moved(LR=0.498)
    with pytest.raises(
        RunError, match=r"the champion \(experiment 0\) cannot be measured any more \(oom\): no memory; "
    ):
        bench.loop(Flaky({5, 6, 7}), ScriptedProposer([doubtful]), RULE, max_experiments=1).run()
    assert bench.ledger().experiment(1).is_open
    bench.loop(FakeTask(), ScriptedProposer([doubtful]), RULE, max_experiments=1).run()
    assert not bench.ledger().experiment(1).is_open


def test_without_noise_any_difference_counts_at_once(bench):
    equal = Proposal("equal", "text", source=SOURCE.replace("DEPTH = 4", "DEPTH = 5").replace('"none"', '"same"'))
    script = [moved(DEPTH=5), moved(DEPTH=4), equal]
    bench.loop(FakeTask(noise=0), ScriptedProposer(script), RULE).run()
    ledger = bench.ledger()
    rows = ledger.experiments()
    assert [row.decision for row in rows] == ["keep", "keep", "discard", "discard"]
    assert [len(ledger.trials(row.id)) for row in rows] == [4, 1 + 2, 0, 1]
    assert rows[1].reason.startswith("loss 1.550000 in 1 run against the champion's 1.600000 in 4 runs, 0.05 better: ")
    assert "there is no noise, so it is a gain; 1.550000 in 2 runs on fresh seeds" in rows[1].reason
    assert rows[3].reason.endswith("equal: there is no noise, so it is no gain")


def substance(ledger):
    """All rows, without times and what contains times."""
    rows = [
        (row.id, row.program_hash, row.status, row.score, row.decision, row.reason, row.simplification)
        for row in ledger.experiments()
    ]
    runs = [(trial.id, trial.experiment, trial.seed, trial.value, trial.purpose) for trial in ledger.trials()]
    rulings = [(found.id, found.step, found.reason, found.noise) for row in rows for found in ledger.rulings(row[0])]
    return rows + runs + rulings


def test_interrupted_before_every_trial_the_ledger_is_that_of_an_uninterrupted_run(bench, twin):
    script = [moved(LR=0.498), BETTER, WORSE]
    twin.loop(FakeTask(), ScriptedProposer(script), RULE).run()
    expected = substance(twin.ledger())

    class Interrupted(FakeTask):
        def measure(self, candidate, **arguments):
            if self.measured:
                raise KeyboardInterrupt
            return super().measure(candidate, **arguments)

    reason, starts = INTERRUPTED, 0
    while reason == INTERRUPTED:
        reason = bench.loop(Interrupted(), ScriptedProposer(script), RULE).run()
        starts += 1
    assert starts == len(twin.ledger().trials())
    assert substance(bench.ledger()) == expected


def test_proposers_see_no_finer_than_the_noise(bench):
    proposer = ScriptedProposer([moved(LR=0.498), BETTER, WORSE, moved(FAULT="crash"), moved(LR=0.498)])
    bench.loop(FakeTask(noise=0.03), proposer, RULE).run()
    ledger = bench.ledger()
    brief = proposer.briefs[-1]
    sigma = read_standing(ledger).noise.sigma
    digits = 1 if sigma > 0.05 else 2
    shown = [brief.champion_score, *(outcome.score for outcome in brief.history if outcome.score is not None)]
    assert len(shown) == 6
    assert all(round(score, digits) == score for score in shown), shown
    for outcome in brief.history:
        if outcome.status is Status.OK:
            assert not any(character.isdigit() for character in outcome.reason)
    assert brief.history[4].reason == "made to crash"
    assert ledger.experiment(1).score not in shown


def test_a_run_keeps_to_its_rule(bench):
    bench.loop(FakeTask(), ScriptedProposer([]), RULE).run()
    other = SequentialDecision(Metric("loss"), dataclasses.replace(SETTINGS, alpha=0.01))
    with pytest.raises(RunFolderError, match=r"\(alpha 0.005 then, 0.01 now\)"):
        bench.loop(FakeTask(), ScriptedProposer([]), other).run()
    with pytest.raises(RunFolderError, match=r"decision sequential then, greedy now"):
        bench.loop(FakeTask(), ScriptedProposer([])).run()


def test_a_run_of_before_there_was_a_choice_was_greedy(bench):
    bench.loop(FakeTask(), ScriptedProposer([])).run()
    ledger = bench.ledger()
    with ledger.transaction():
        ledger._database.execute("DELETE FROM settings WHERE name = 'decision'")
    bench.loop(FakeTask(), ScriptedProposer([])).run()
    with pytest.raises(RunFolderError, match="decision greedy then, sequential now"):
        bench.loop(FakeTask(), ScriptedProposer([]), RULE).run()
