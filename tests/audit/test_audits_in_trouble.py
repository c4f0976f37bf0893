"""Audits that cannot be made, or are cut short: what fails is in no figure, and the same audit goes on."""

import errno
import itertools
from pathlib import Path

import pytest
from audited import (
    RUNS,
    TroubledTask,
    audits,
    by_name,
    forget_audits,
    merge_in,
    trials_of,
)
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.audit.audits import FURTHER_SEEDS, AuditError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.task import RunError
from autoresearch_jax.types import (
    TOO_BUSY,
    Candidate,
    CandidateRejected,
    CandidateUntouched,
    Measurement,
    Status,
)


def test_a_champion_that_is_refused_now(night):
    class Refusing(FakeTask):
        def prepare(self, source: str, log_dir: Path) -> Candidate:
            raise CandidateRejected(Status.REJECTED, "no build")

    ledger = night.ledger()
    with pytest.raises(AuditError, match=r"^the champion cannot be measured \(rejected\): no build"):
        audits(night, Refusing(), ledger=ledger).ablation(2, merge_in(night))
    with pytest.raises(AuditError, match=r"^the baseline cannot be measured \(rejected\): no build"):
        audits(night, Refusing(), ledger=ledger).holdout(2)
    assert ledger.holdout_readings() == 0, "nothing was trained"


def test_a_run_that_kept_nothing(bench):
    bench.folder.create()
    with pytest.raises(AuditError, match=r"^the run has no baseline yet"):
        audits(bench, FakeTask())
    bench.loop(FakeTask(), ScriptedProposer([moved(LR=0.9)])).run()
    with pytest.raises(AuditError, match=r"^the champion is still the baseline: there is nothing to audit until"):
        audits(bench, FakeTask())


def crash(seed: int = 0) -> Measurement:
    return Measurement(Status.CRASH, None, seed, error="made to")


def test_a_trial_without_a_score_is_in_no_figure(night):
    task = TroubledTask(lambda number, _: crash() if number == 1 else None)
    found = audits(night, task).holdout(RUNS)
    figures = found.figures
    assert (figures["pairs"], figures["failed_runs"], figures["verdict"]) == (RUNS - 1, 1, "real")
    assert figures["first_failure"].startswith("champion, seed ")
    assert figures["first_failure"].endswith(": crash: made to")
    assert by_name(found)["champion"]["runs"] == RUNS - 1
    assert by_name(found)["baseline"]["runs"] == RUNS
    assert figures["gain_val"] == pytest.approx(0.5, abs=0.005)


def test_what_fails_three_times_in_a_row_is_given_up(night):
    task = TroubledTask(lambda _, candidate: crash() if "LR = 0.1" in candidate.source else None)
    found = audits(night, task).holdout(6)
    assert len(task.measured) == 6, "three rounds, and the champion failed in each"
    assert not found.is_measured
    figures = found.figures
    assert (figures["verdict"], figures["pairs"], figures["gain_val"]) == ("not measured", 0, None)
    assert by_name(found)["champion"]["loss"] is None
    assert figures["holdout_readings"] == 1


def test_a_cut_short_audit_goes_on_with_its_further_seeds(night):
    def trouble(number: int, _: Candidate) -> Measurement | None:
        if number == 4:
            raise KeyboardInterrupt
        return crash() if number == 1 else None

    with pytest.raises(KeyboardInterrupt):
        audits(night, TroubledTask(trouble)).holdout(2)
    task = FakeTask()
    assert audits(night, task).holdout(2).figures["pairs"] == 2
    assert len(task.measured) == 2


def test_further_seeds_have_an_end(night):
    counts = {True: itertools.count(0), False: itertools.count(1)}  # of the champion's trials and of the baseline's

    def trouble(_: int, candidate: Candidate) -> Measurement | None:
        return crash() if next(counts["LR = 0.1" in candidate.source]) % 2 else None

    task = TroubledTask(trouble)
    found = audits(night, task).holdout(2)
    assert (found.is_measured, found.figures["pairs"]) == (False, 0)
    assert len(task.measured) == 2 * (2 + FURTHER_SEEDS)


def test_an_ablation_takes_further_seeds_for_what_needs_them_alone(night):
    lost = itertools.count()

    def trouble(_: int, candidate: Candidate) -> Measurement | None:
        return crash() if "DEPTH = 4" in candidate.source and next(lost) == 0 else None

    task = TroubledTask(trouble)
    found = audits(night, task).ablation(2, merge_in(night))
    assert found.figures["compared"] == 2
    assert len(task.measured) == 2 * 3 + 2


def rows_of(ledger: Ledger) -> list[tuple]:
    return [
        (trial.id, trial.subject, trial.seed, trial.status, trial.value, trial.holdout) for trial in trials_of(ledger)
    ]


@pytest.mark.parametrize("cut", [0, 3])
def test_an_audit_that_was_cut_short_is_taken_up(night, cut):
    twin = FakeTask()
    whole = night.ledger()
    found = audits(night, twin, ledger=whole).holdout(RUNS)
    expected = rows_of(whole)
    forget_audits(night)

    def stop(number: int, _: Candidate) -> None:
        if number == cut:
            raise KeyboardInterrupt

    ledger = night.ledger()
    with pytest.raises(KeyboardInterrupt):
        audits(night, TroubledTask(stop), ledger=ledger).holdout(RUNS)
    assert ledger.holdout_readings() == 1
    assert len(rows_of(ledger)) == cut + 1
    assert not list((night.folder.path / "snapshots").glob("audit*"))
    task = FakeTask()
    assert audits(night, task, ledger=ledger).holdout(RUNS) == found
    assert len(task.measured) == 2 * RUNS - cut, "what was finished is not repeated"
    assert rows_of(ledger) == expected
    assert ledger.holdout_readings() == 1


def test_another_question_does_not_take_it_up(night):
    def stop(number: int, _: Candidate) -> None:
        raise KeyboardInterrupt

    ledger = night.ledger()
    with pytest.raises(KeyboardInterrupt):
        audits(night, TroubledTask(stop), ledger=ledger).holdout(2)
    audits(night, FakeTask(), ledger=ledger).holdout(3)
    audits(night, FakeTask(), ledger=ledger).ablation(2, merge_in(night))
    assert {(trial.audit, trial.answered_at is not None) for trial in ledger.audit_trials()} == {
        (1, False),
        (2, True),
        (3, True),
    }
    assert ledger.holdout_readings() == 2, "the one that was cut short had begun to read"


def test_a_device_that_is_gone_ends_the_audit_and_it_can_go_on(night):
    def fail(number: int, _: Candidate) -> None:
        if number >= 2:
            raise RuntimeError("the device is gone")

    ledger = night.ledger()
    task = TroubledTask(fail)
    with pytest.raises(
        RunError, match=r"^the task failed: RuntimeError: the device is gone; see .*task_error.txt; the"
    ):
        audits(night, task, ledger=ledger).holdout(RUNS)
    assert [trial.status for trial in trials_of(ledger)] == ["ok", "ok", "crash", "crash", None]
    found = audits(night, FakeTask(), ledger=ledger).holdout(RUNS)
    assert (found.figures["failed_runs"], found.figures["pairs"]) == (2, RUNS - 1)


def test_a_process_that_died_before_it_touched_the_candidate_ends_an_audit_that_goes_on_with_the_same_trial(night):
    audits(night, FakeTask(), ledger=(whole := night.ledger())).holdout(RUNS)
    expected = rows_of(whole)
    forget_audits(night)

    def die(number: int, _: Candidate) -> None:
        if number == 1:
            raise CandidateUntouched("starting the process of a trial: Unknown flag; see worker.log")

    ledger = night.ledger()
    with pytest.raises(RunError, match=r"^starting .*: Unknown flag; see worker.log; the same command goes on from"):
        audits(night, TroubledTask(die), ledger=ledger).holdout(RUNS)
    assert [trial.status for trial in trials_of(ledger)] == ["ok", None], "nothing is entered as tried"
    audits(night, FakeTask(), ledger=ledger).holdout(RUNS)
    assert rows_of(ledger) == expected


def test_a_full_disk_ends_an_audit_that_goes_on_later(night):
    def fill(number: int, _: Candidate) -> None:
        if number == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "runs/night")

    ledger = night.ledger()
    with pytest.raises(RunError, match=r"the disk is full: .*; the same command goes on from here"):
        audits(night, TroubledTask(fill), ledger=ledger).holdout(RUNS)
    assert all(trial.status in (Status.OK, None) for trial in trials_of(ledger)), "nothing is blamed for it"
    audits(night, FakeTask(), ledger=ledger).holdout(RUNS)
    assert all(trial.status is Status.OK for trial in trials_of(ledger))


def test_a_machine_that_is_too_busy_ends_an_audit_that_goes_on_with_the_same_trial(night):
    audits(night, FakeTask(), ledger=(whole := night.ledger())).holdout(RUNS)
    expected = rows_of(whole)
    forget_audits(night)

    def crowd(number: int, candidate: Candidate) -> Measurement | None:
        return Measurement(Status.TIMEOUT, None, 0, {TOO_BUSY: True}, error="too busy") if number == 3 else None

    ledger = night.ledger()
    with pytest.raises(RunError, match=r"^too busy; the same command goes on from here$"):
        audits(night, TroubledTask(crowd), ledger=ledger).holdout(RUNS)
    assert [trial.status for trial in trials_of(ledger)] == [*["ok"] * 3, None], "nothing is blamed for it"
    task = FakeTask()
    found = audits(night, task, ledger=ledger).holdout(RUNS)
    assert len(task.measured) == 2 * RUNS - 3
    assert (found.figures["failed_runs"], found.figures["pairs"]) == (0, RUNS)
    assert rows_of(ledger) == expected
