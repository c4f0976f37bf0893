"""Trials on the attended clock, in real processes on tiny programs: what is counted, recorded, and given up."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from lm_trials import MakeTask, run_trial

from autoresearch_jax.tasks.lm import measure as measuring
from autoresearch_jax.tasks.lm.accounting import PROC, AccountingError, LinuxAccounting, Usage
from autoresearch_jax.tasks.lm.clock import ATTENDED, WALL
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device, device_terms
from autoresearch_jax.tasks.lm.messages import MeasureRequest
from autoresearch_jax.tasks.lm.trial import TaskError
from autoresearch_jax.types import TOO_BUSY, Budget, Measurement, Scalar, Scrutiny, Status

SECONDS = Budget(seconds=1.0)
needs_accounts = pytest.mark.skipif(
    not (PROC / "self" / "schedstat").exists(), reason="this kernel keeps no accounts of threads"
)


def number(measured: Measurement, name: str) -> float:
    value = measured.metrics[name]
    assert isinstance(value, int | float)
    return float(value)


@needs_accounts
def test_a_trial_counts_and_tells_attended_time(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    reports: list[Mapping[str, Scalar]] = []
    task = make_task(SECONDS, clock=ATTENDED, max_stretch=20.0)
    measured = run_trial(task, tiny_source, tmp_path / "trial", reports=reports)
    assert measured.status is Status.OK, measured.error
    assert measured.metrics["clock"] == ATTENDED
    assert measured.metrics["clock_fault"] is None
    assert TOO_BUSY not in measured.metrics
    assert 0 < number(measured, "attended_share") <= 1
    assert 0.1 < number(measured, "machine_speed") < 10
    assert number(measured, "training_seconds") >= 1.0
    assert number(measured, "wall_seconds") > 0.5 * number(measured, "training_seconds")
    assert 0 < number(measured, "clock_seconds") < number(measured, "wall_seconds")
    assert number(measured, "reference_seconds") > 0, "a trial outside of a run measures it"
    assert measured.metrics["compiles_in_budget"] == 0, "the reference program is compiled before"
    shares = [report["attended_share"] for report in reports if "attended_share" in report]
    assert shares
    assert all(isinstance(share, float) and 0 < share <= 1 for share in shares), shares


@needs_accounts
def test_what_a_run_kept_is_what_its_trials_count_in(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    task = make_task(SECONDS, clock=ATTENDED, max_stretch=20.0)
    kept = task.calibrate(None, tmp_path)
    assert kept is not None
    assert 0 < kept < 10
    assert (tmp_path / "reference.log").exists()
    assert task.calibrate(2 * kept, tmp_path) == 2 * kept, "it is not measured again"
    measured = run_trial(task, tiny_source, tmp_path / "trial")
    assert measured.status is Status.OK, measured.error
    assert measured.metrics["reference_seconds"] == 2 * kept


@needs_accounts
def test_a_machine_that_is_too_slow_for_the_budget_is_no_fault_of_the_candidate(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    task = make_task(SECONDS, clock=ATTENDED, max_stretch=1.5)
    task.calibrate(1e-4, tmp_path)  # as if the machine had been a hundred times as fast when the run began
    measured = run_trial(task, tiny_source, tmp_path / "trial")
    assert (measured.status, measured.value, measured.snapshot) == (Status.TIMEOUT, None, None)
    assert measured.metrics[TOO_BUSY] is True
    assert "--max_stretch" in (measured.error or "")
    assert "\n" not in (measured.error or "")
    assert number(measured, "training_seconds") < 0.5
    assert 1.5 <= number(measured, "wall_seconds") < 60
    assert not (tmp_path / "trial" / "snapshot").exists()


def test_a_budget_in_steps_has_the_wall_clock_and_no_reference(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    task = make_task(clock=ATTENDED)
    assert task.terms["clock"] == WALL
    assert task.calibrate(None, tmp_path) is None
    assert not (tmp_path / "reference.log").exists()
    measured = run_trial(task, tiny_source, tmp_path / "trial")
    assert measured.status is Status.OK
    assert measured.metrics["clock"] == WALL
    assert not {"reference_seconds", "attended_share", "machine_speed"} & measured.metrics.keys()
    assert number(measured, "wall_seconds") == pytest.approx(number(measured, "training_seconds"), abs=0.1)


def test_by_the_wall_clock_a_budget_is_its_own_limit(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    measured = run_trial(make_task(SECONDS, max_stretch=1.0), tiny_source, tmp_path / "trial")
    assert measured.status is Status.OK, measured.error
    assert measured.metrics["clock"] == WALL
    assert number(measured, "wall_seconds") >= 1.0


def test_a_device_on_which_no_reference_runs_is_named(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(SECONDS, clock=ATTENDED, device=Device("none_such", "none", 1, None))
    with pytest.raises(TaskError) as caught:
        task.calibrate(None, tmp_path)
    assert str(tmp_path / "reference.log") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_terms_know_the_machine() -> None:
    mesh, cpu = {"data": 2, "model": 1}, Device("cpu", "cpu", 2, None)
    terms = device_terms(cpu, mesh, SECONDS, ATTENDED)
    assert terms.keys() == {"platform", "device_kind", "num_devices", "mesh", "jax_version", "clock"}
    assert (terms["platform"], terms["num_devices"], terms["mesh"]) == ("cpu", 2, "data=2,model=1")
    assert terms["device_kind"] not in ("", "cpu"), "which processors, and how many"
    assert terms["clock"] == ATTENDED
    assert device_terms(cpu, mesh, Budget(steps=5), ATTENDED)["clock"] == WALL
    gpu = device_terms(Device("cuda", "NVIDIA L4", 1, None), {"data": 1, "model": 1}, SECONDS, WALL)
    assert gpu["device_kind"] == "NVIDIA L4"
    assert device_terms(cpu, {"data": 1, "model": 2}, SECONDS, ATTENDED) != terms


class Failing:
    """This machine's accounts, until they have been read `readings` times."""

    def __init__(self, readings: int) -> None:
        self._accounting = LinuxAccounting()
        self._left = readings

    def read(self) -> Usage:
        self._left -= 1
        if self._left < 0:
            raise AccountingError("they go backwards")
        return self._accounting.read()

    def close(self) -> None:
        self._accounting.close()


@needs_accounts
@pytest.mark.parametrize("readings", [0, 1, 20])
def test_accounts_that_fail_leave_the_wall_clock_and_are_recorded(
    readings: int,
    make_task: MakeTask,
    tiny_source: str,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def accounting() -> Failing:
        if readings == 0:
            raise AccountingError("there are none")
        return Failing(readings)

    monkeypatch.setattr(measuring, "LinuxAccounting", accounting)
    (tmp_path / "trial").mkdir()
    candidate = make_task().prepare(tiny_source, tmp_path / "trial")
    request = MeasureRequest(
        programs_dir=str(candidate.programs_dir),
        program_hash=candidate.program_hash,
        dataset_folder=str(tiny_dataset.folder),
        sequence_length=tiny_dataset.sequence_length,
        split="val",
        judge_tokens=None,
        scrutiny=Scrutiny.SEARCH,
        seed=0,
        budget=Budget(seconds=0.5),
        clock=ATTENDED,
        reference_seconds=0.01,
        max_stretch=20.0,
        snapshot_dir=str(tmp_path / "trial" / "snapshot"),
        log_dir=str(tmp_path / "trial"),
        device_memory_bytes=None,
        min_steps=1,
        free_init_seconds=10.0,
        free_judge_seconds=10.0,
        facts={},
    )
    answer = measuring.measure(request, lambda event: None)
    assert answer["status"] == Status.OK, answer
    assert answer["metrics"]["clock"] == WALL
    assert answer["metrics"]["clock_fault"] == ("they go backwards" if readings else "there are none")
    assert answer["metrics"]["wall_seconds"] >= 0.5 * 0.9
    assert math.isfinite(answer["value"])
