"""Trials of tiny programs: the clock, loss limits, what is charged, the compile cache."""

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_trials import MakeTask, measure_request, run_trial
from tracing import edited, traced

from autoresearch_jax.sandbox.accounting import ATTENDED, PROC, WALL, AccountingError, CpuUsage, LinuxAccounting
from autoresearch_jax.tasks.lm import measure as measuring
from autoresearch_jax.tasks.lm.config import TimeLimits
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device, device_terms
from autoresearch_jax.tasks.lm.judging import TrialFailedError
from autoresearch_jax.tasks.lm.programs import load_programs
from autoresearch_jax.tasks.lm.trainer import TrainResult
from autoresearch_jax.types import (
    CHARGED_COMPILE,
    CURVE_POINTS,
    LOSSES,
    TOO_BUSY,
    Budget,
    CandidateUntouched,
    CompileCost,
    LossLimit,
    Measurement,
    Status,
    read_curve,
)

pytestmark = pytest.mark.usefixtures("quick_to_compile")
SECONDS = Budget(seconds=1.0)
needs_accounts = pytest.mark.skipif(
    not (PROC / "self" / "schedstat").exists(), reason="this kernel keeps no accounts of threads"
)

STEPS = 40

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def programs_dir(tiny_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced(tiny_source, tmp_path_factory.mktemp("traced") / "tiny", sequence_length=32)


@pytest.fixture
def run_here(programs_dir: Path, tiny_dataset: Dataset, tmp_path: Path) -> Run:
    """Runs a trial of the tiny training file in this process, in a folder of its own; returns the answer."""

    def run(name: str, reports: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        request = measure_request(
            tmp_path / name,
            programs_dir=str(programs_dir),
            program_hash=load_programs(programs_dir).program_hash,
            dataset_folder=str(tiny_dataset.folder),
            sequence_length=32,
            **fields,
        )
        return measuring.measure(request, [].append if reports is None else reports.append)

    return run


def number(measured: Measurement, name: str) -> float:
    value = measured.metrics[name]
    assert isinstance(value, int | float)
    return float(value)


@needs_accounts
def test_a_trial_counts_and_tells_attended_time(run_here: Run) -> None:
    reports: list[dict[str, Any]] = []
    answer = run_here("trial", reports, budget=SECONDS, clock=ATTENDED)
    assert answer["status"] == Status.OK, answer
    metrics = answer["metrics"]
    assert metrics["clock"] == ATTENDED
    assert metrics["clock_fault"] is None
    assert TOO_BUSY not in metrics
    assert 0 < metrics["attended_share"] <= 1
    assert 0.1 < metrics["machine_speed"] < 10
    assert metrics["training_seconds"] >= 1.0
    assert metrics["wall_seconds"] > 0.5 * metrics["training_seconds"]
    assert 0 < metrics["clock_seconds"] < metrics["wall_seconds"]
    assert metrics["reference_seconds"] > 0, "a trial outside of a run measures it"
    assert metrics["compiles_in_budget"] == 0, "the reference program is compiled before"
    shares = [report["attended_share"] for report in reports if "attended_share" in report]
    assert shares
    assert all(isinstance(share, float) and 0 < share <= 1 for share in shares), shares


@needs_accounts
@pytest.mark.slow
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
@pytest.mark.slow
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
    assert number(measured, "wall_seconds") >= 1.5
    assert not (tmp_path / "trial" / "snapshot").exists()


@pytest.mark.slow
def test_a_device_on_which_no_reference_runs_is_named(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(SECONDS, clock=ATTENDED, device=Device("none_such", "none", 1, None))
    with pytest.raises(CandidateUntouched) as caught:
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

    def read(self) -> CpuUsage:
        self._left -= 1
        if self._left < 0:
            raise AccountingError("they go backwards")
        return self._accounting.read()

    def close(self) -> None:
        self._accounting.close()


@needs_accounts
def test_accounts_that_fail_leave_the_wall_clock_and_are_recorded(
    run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Failing:
        raise AccountingError("there are none")

    timed = {"budget": Budget(seconds=0.5), "clock": ATTENDED, "reference_seconds": 0.01}
    for accounting, fault in ((none, "there are none"), (lambda: Failing(20), "they go backwards")):
        monkeypatch.setattr(measuring, "LinuxAccounting", accounting)
        answer = run_here(fault, **timed)
        assert answer["status"] == Status.OK, answer
        assert answer["metrics"]["clock"] == WALL
        assert answer["metrics"]["clock_fault"] == fault
        assert answer["metrics"]["wall_seconds"] >= 0.5 * 0.9
        assert math.isfinite(answer["value"])


@pytest.mark.parametrize(
    ("clock", "steps", "status", "reason"),
    [
        (ATTENDED, [0.1] * 20, None, None),
        (ATTENDED, [0.1] * 19 + [0.55], None, None),
        (
            ATTENDED,
            [0.1] * 19 + [0.71],
            Status.INVALID,
            r"training ended 0\.6 s after the budget: the last step took 0\.7",
        ),
        (WALL, [0.1] * 19 + [1.05], None, None),  # the machine may have stalled
        (
            WALL,
            [0.1] * 19 + [1.3],
            Status.INVALID,
            r"training ended 1\.2 s after the budget: the last step took 1\.3 s",
        ),
        (
            WALL,
            [0.1] * 19 + [5.0],
            Status.INVALID,
            r"training ended 4\.9 s after the budget: the last step took 5\.0 s",
        ),
        (WALL, [0.45] * 5, Status.REJECTED, r"only 5 steps fitted into 2 s, at least 10 must: make the model or"),
    ],
)
def test_a_last_step_that_takes_long_and_too_few_steps_are_refused(
    clock: str, steps: list[float], status: Status | None, reason: str | None
) -> None:
    free_seconds = measuring.STALL_SECONDS[clock]
    ends = list(itertools.accumulate(steps))
    result = TrainResult([], len(steps), seconds=ends[-1], losses=[(end, 1.0) for end in ends], step_walls=steps)
    if status is None:
        measuring.check_kept_budget(result, 2.0, 10, free_seconds)
        return
    with pytest.raises(TrialFailedError, match=reason) as caught:
        measuring.check_kept_budget(result, 2.0, 10, free_seconds)
    assert caught.value.status is status


def test_above_a_limit_training_stops_and_below_it_changes_nothing(run_here: Run, tmp_path: Path) -> None:
    budget = Budget(steps=STEPS)
    free = run_here("free", budget=budget)
    losses = free["metrics"][LOSSES]
    curve = read_curve(losses)
    assert len(curve) == CURVE_POINTS
    below = run_here("below", budget=budget, stop_above=(LossLimit(6, curve[5] + 1e-4),))
    assert (below["status"], below["value"], below["metrics"][LOSSES]) == (Status.OK, free["value"], losses)
    above = run_here("above", budget=budget, stop_above=(LossLimit(6, curve[5] - 1e-4), LossLimit(9, 0.0)))
    assert (above["status"], above["value"], above["snapshot"]) == (Status.PRUNED, None, None)
    assert above["error"] == f"stopped at 30% of the budget: its loss was {curve[5]:.4g}"
    assert read_curve(above["metrics"][LOSSES]) == curve[:6]
    assert above["metrics"]["num_steps"] <= 6 * STEPS // CURVE_POINTS + 1, "no step is begun any more"
    assert not (tmp_path / "above" / "snapshot").exists()
    assert len((tmp_path / "above" / "loss.csv").read_text().splitlines()) == 1 + 6 * STEPS // CURVE_POINTS


@pytest.mark.slow
def test_losses_are_bits_per_byte_whatever_the_vocabulary(
    make_task: MakeTask, tiny_source: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    untrained = edited(tiny_source, ("LEARNING_RATE = 10.0", "LEARNING_RATE = 0.0"))
    for size in tiny_dataset.vocab_sizes:
        source = edited(untrained, ("VOCAB_SIZE = 256", f"VOCAB_SIZE = {size}"))
        found = run_trial(make_task(Budget(steps=STEPS)), source, tmp_path / str(size))
        assert found.value is not None
        assert read_curve(found.metrics[LOSSES])[-1] == pytest.approx(found.value, rel=0.1)


def test_compiling_too_long_takes_time_off_the_budget_and_the_rest_is_kept(run_here: Run, tmp_path: Path) -> None:
    limits, reports = TimeLimits(free_compile=0.0), list[dict[str, Any]]()
    found = run_here("part", reports, budget=SECONDS, limits=limits, compile_cost=CompileCost(charged=0.25))
    metrics = found["metrics"]
    assert found["status"] == Status.OK, found
    assert metrics[CHARGED_COMPILE] == 0.25
    assert metrics["compiling_seconds"] > 0
    assert metrics["training_seconds"] >= 0.75
    with (tmp_path / "part" / measuring.LOSS_CURVE_FILE).open() as file:
        assert len(list(csv.DictReader(file))) == metrics["num_steps"]
    told = [report for report in reports if report["event"] == "progress" and report["phase"] == "train"]
    assert {"elapsed_seconds", "budget_seconds", "step", "loss", "tokens_per_second"} <= told[-1].keys()

    found = run_here("all", budget=SECONDS, limits=limits, compile_cost=CompileCost(charged=1.0))
    assert (found["status"], found["error"]) == (Status.TIMEOUT, "compiling spent the budget: 1.0 s of it")
    assert found["metrics"][CHARGED_COMPILE] == 1.0


@pytest.mark.slow
def test_a_second_trial_of_a_program_compiles_nothing(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    task = make_task(compile_cache_dir=tmp_path / "cache")
    first = run_trial(task, tiny_source, tmp_path / "first", seed=1)
    second = run_trial(task, tiny_source, tmp_path / "second", seed=2)
    assert first.status is second.status is Status.OK
    assert int(first.metrics["compiled_programs"] or 0) >= 4  # init, step, judge, and the multiplication of `flops.py`
    assert second.metrics["compiled_programs"] == 0
    changed = edited(tiny_source, ("LEARNING_RATE = 10.0", "LEARNING_RATE = 8.0"))
    other = run_trial(task, changed, tmp_path / "other")
    assert 0 < int(other.metrics["compiled_programs"] or 0) < int(first.metrics["compiled_programs"] or 0)
