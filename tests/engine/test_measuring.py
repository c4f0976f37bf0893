"""What the lineage rule does to the loop: runs, seeds, decisions and scores, on a fake task with a real ledger."""

import dataclasses
import errno
import os
from statistics import fmean

import pytest
from fakes import SOURCE, FakeTask, ScriptedProposer, moved
from ledgers import substance

from autoresearch_jax.decide.rule import Action, LineageRule, LineageSettings
from autoresearch_jax.engine.loop import INTERRUPTED
from autoresearch_jax.engine.records import Purpose
from autoresearch_jax.engine.state import read_state
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.types import Measurement, Metric, Scrutiny, Status, TermsChanged

SETTINGS = LineageSettings()
RULE = LineageRule(Metric("loss"), SETTINGS)
FIRST = SETTINGS.baseline_runs  # number of the first measurement of a candidate, counted from 0
OF_TWO = LineageRule(Metric("loss"), LineageSettings(baseline_runs=2))  # knows its baseline badly
DOUBTFUL = moved(LR=0.499)  # 0.001 better, as much as a run's standard deviation
BETTER, WORSE = moved(LR=0.1), moved(LR=0.9)


def trials(ledger, experiment, purpose):
    return [trial for trial in ledger.trials(experiment) if trial.purpose is purpose]


def test_what_is_clear_takes_one_run_and_a_keep_one_more_on_a_fresh_seed(bench, run_git):
    task = FakeTask()
    bench.loop(task, ScriptedProposer([BETTER, WORSE]), RULE).run()
    ledger = bench.ledger()
    _, gain, loss = ledger.experiments()
    of_baseline = [len(trials(ledger, 0, purpose)) for purpose in (Purpose.CANDIDATE, Purpose.CHAMPION)]
    assert of_baseline == [0, SETTINGS.baseline_runs], "no decision hung on the baseline's"
    (won,), (fresh,) = (trials(ledger, 1, purpose) for purpose in (Purpose.CANDIDATE, Purpose.CHAMPION))
    assert won.seed in {trial.seed for trial in ledger.trials(0)}, "a pair with a run of the champion"
    assert fresh.seed not in {won.seed, *(trial.seed for trial in ledger.trials(0))}
    assert (loss.decision, len(ledger.trials(2))) == (Action.DISCARD, 1)
    assert loss.score == ledger.trials(2)[0].value
    assert loss.error is None
    message = run_git(bench.repo, "log", "-1", "--format=%B", "autoresearch/night")
    assert gain.reason in message
    names = dict(line.split(": ", 1) for line in message.splitlines() if ": " in line)
    assert (names["Decision"], names["Runs"]) == ("keep", "2")
    assert float(names["Loss"].split(" +- ")[0]) == pytest.approx(gain.score, abs=gain.error)
    assert names["Effect"].startswith("-"), "the metric falls"
    assert float(names["Probability"].removeprefix("> ")) > 0.5
    looked_at = [seed for (_, seed), scrutiny in zip(task.measured, task.scrutinies, strict=True) if scrutiny == "keep"]
    assert looked_at == [ledger.trials(0)[0].seed, fresh.seed], "every row is probed once of what becomes champion"
    assert set(task.scrutinies) == {Scrutiny.SEARCH, Scrutiny.KEEP}

    # A trial is told of the champion and the baseline, and never of itself.
    told = [[bench.folder.log_dir(number) for number in numbers] for numbers in ((), (0,), (0, 1))]
    assert task.references[:FIRST] == [told[0]] * FIRST
    assert task.references[FIRST] == told[1]  # of the first candidate
    assert task.references[-1] == told[2]  # of the last, with the first one as champion
    hashes = [program_hash for program_hash, _ in task.measured]
    of_champion = [bench.folder.log_dir(0)] if hashes[-2] == hashes[FIRST] else told[2]
    assert task.references[-2] == of_champion


def test_a_champions_score_is_a_posterior_mean_that_moves_with_later_runs(bench):
    bench.loop(FakeTask(), ScriptedProposer([BETTER]), RULE, max_experiments=1).run()
    early = bench.ledger().experiment(1)
    values = [trial.score for trial in bench.ledger().trials(1)]
    assert early.error > 0
    assert early.score == pytest.approx(fmean(values), abs=3 * early.error)
    state = read_state(bench.ledger())
    assert (state.champion.id, state.score.mean, state.score.error) == (1, early.score, early.error)
    bench.loop(FakeTask(), ScriptedProposer([BETTER, *(moved(LR=0.1 + n / 2000) for n in range(1, 5))]), RULE).run()
    ledger = bench.ledger()
    late = ledger.experiment(1)
    assert (late.score, late.error) != (early.score, early.error)
    line = bench.folder.results.read_text().splitlines()[2]
    assert line.split("\t")[1] == f"{late.score:.6f}"


def test_a_shorter_source_that_is_no_worse_is_a_simplification(bench):
    longer = SOURCE + 'UNUSED = "4444"\n'
    script = [
        Proposal("more words", "text", source=longer.replace("LR = 0.5", "LR = 0.1")),
        Proposal("fewer words", "text", source=SOURCE.replace("LR = 0.5", "LR = 0.1")),
    ]
    bench.loop(FakeTask(), ScriptedProposer(script), RULE).run()
    ledger = bench.ledger()
    _, gain, simpler = ledger.experiments()
    assert [row.error is not None for row in (gain, simpler)] == [True, True]
    assert (gain.decision, gain.simplification) == (Action.KEEP, False)
    assert (simpler.decision, simpler.simplification) == (Action.KEEP, True), simpler.reason
    assert "7 syntax nodes fewer" in simpler.reason
    assert bench.folder.results.read_text().splitlines()[-1].split("\t")[3] == "keep"
    state = read_state(ledger)
    assert state.champion.id == 2
    assert state.anchor == {1}, "the last that was kept for its gain"


def test_a_source_is_not_simpler_for_giving_up_a_constant_of_the_page(bench):
    class Forgiving(FakeTask):
        """Takes PATTERN as the constant's value where a text has it no more."""

        @staticmethod
        def score(constants):
            return FakeTask.score({"PATTERN": "SL", **constants})

    source = SOURCE.replace('PATTERN = "SL"  # best as "SSSL"\n', "")
    bench.loop(Forgiving(noise=0), ScriptedProposer([Proposal("no PATTERN", "text", source=source)]), RULE).run()
    row = bench.ledger().experiment(1)
    assert row.decision is Action.DISCARD
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the snapshots"), "the snapshots: .*disk.*"),
        (TermsChanged("the dataset was made anew"), "the dataset was made anew"),
    ],
)
def test_a_full_disk_or_another_dataset_ends_the_run_at_once_and_the_trial_stays_open(bench, twin, error, words):
    class Unlucky(FakeTask):
        def measure(self, candidate, **arguments):
            if len(self.measured) == FIRST + 1:
                raise error
            return super().measure(candidate, **arguments)

    with pytest.raises(RunError, match=rf"^{words}; the same command goes on from here"):
        bench.loop(Unlucky(), ScriptedProposer([BETTER]), RULE).run()
    assert bench.ledger().open_trials() is not None
    bench.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    twin.loop(FakeTask(), ScriptedProposer([BETTER]), RULE).run()
    assert substance(bench.ledger()) == substance(twin.ledger())


def test_a_champion_that_became_another_program_is_not_measured(bench):
    class Updated(FakeTask):
        def prepare(self, source, log_dir, **options):
            found = super().prepare(source, log_dir, **options)
            return dataclasses.replace(found, program_hash=f"new {found.program_hash}")

        def measure(self, candidate, **arguments):  # as it scored before
            was = candidate.program_hash.removeprefix("new ")
            return super().measure(dataclasses.replace(candidate, program_hash=was), **arguments)

    bench.loop(FakeTask(), ScriptedProposer([]), OF_TWO).run()
    with pytest.raises(RunError, match=r"the champion \(experiment 0\) is another program now \(new "):
        bench.loop(Updated(), ScriptedProposer([DOUBTFUL]), OF_TWO).run()


def index_of_champion(bench):
    """Which measurement of a run that tries `DOUBTFUL` is the first further one of the champion, counted from 0."""
    probe = bench.with_tag("probe")
    probe.loop(FakeTask(), ScriptedProposer([DOUBTFUL]), OF_TWO, max_experiments=1).run()
    return probe.ledger().trials(0)[2].id - 1


def test_a_champion_that_cannot_be_measured_any_more_ends_the_run_and_loses_nothing(bench):
    first = index_of_champion(bench)
    with pytest.raises(
        RunError, match=r"the champion \(experiment 0\) cannot be measured any more \(oom\): no memory; "
    ):
        bench.loop(Flaky({first, first + 1, first + 2}), ScriptedProposer([DOUBTFUL]), OF_TWO, max_experiments=1).run()
    assert bench.ledger().experiment(1).is_open
    bench.loop(FakeTask(), ScriptedProposer([DOUBTFUL]), OF_TWO, max_experiments=1).run()
    assert not bench.ledger().experiment(1).is_open


@pytest.mark.slow
def test_interrupted_before_every_trial_the_ledger_is_that_of_an_uninterrupted_run(bench, twin):
    script = [DOUBTFUL, BETTER, WORSE]
    twin.loop(FakeTask(), ScriptedProposer(script), OF_TWO).run()
    assert len(twin.ledger().trials(0)) > 2, "the champion is among those that are measured"
    expected = substance(twin.ledger())

    class Interrupted(FakeTask):
        def measure(self, candidate, **arguments):
            if self.measured:
                raise KeyboardInterrupt
            return super().measure(candidate, **arguments)

    reason, starts = INTERRUPTED, 0
    while reason == INTERRUPTED:
        reason = bench.loop(Interrupted(), ScriptedProposer(script), OF_TWO).run()
        starts += 1
    assert starts == len(twin.ledger().trials())
    assert substance(bench.ledger()) == expected
