"""A trial that was cut short after its snapshot, for real: it has the score and the figures of one that was not."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from jax.errors import JaxRuntimeError
from lm_trials import MakeTask, run_trial
from marked_processes import MARK, marked_processes
from tracing import edited

from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.loader import BatchShapeError
from autoresearch_jax.tasks.lm.flops import TooCostlyError
from autoresearch_jax.tasks.lm.judge import EvalResult
from autoresearch_jax.tasks.lm.judging import Phases, TrialFailedError, of_candidate
from autoresearch_jax.tasks.lm.probes import InvalidCandidateError
from autoresearch_jax.tasks.lm.programs import BadProgramError
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import HOLDOUT_SCORE, Budget, Candidate, Measurement, Scalar, Scrutiny, Status

SPIN = "jax.lax.fori_loop(0, 20_000, lambda i, x: jnp.sin(x @ x), jnp.eye(64))[0, 0]"
# What judging measures afresh, and what is not known any more or is of the driver
OF_JUDGING = {"judge_seconds", "judge_holdout_seconds", "probe_seconds", "worst_probe_nats"}
OF_DRIVER = {"snapshot_seconds", "total_seconds", "prepare_seconds"}
# What no two trials have in common
OF_TRIAL = {"startup_seconds", "compile_seconds", "init_seconds", "training_seconds", "data_wait_seconds"}
OF_TRIAL |= {"compiling_seconds", "tokens_per_second", "snapshot_sha256", "wall_seconds", "compiled_programs"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RecursionError("too deep"), Status.CRASH),
        (KeyError("a name"), Status.CRASH),
        (MemoryError(), Status.OOM),
        (BadProgramError("a rule"), Status.REJECTED),
    ],
)
def test_what_a_program_makes_our_code_raise_is_the_candidate_s(error: Exception, status: Status) -> None:
    with pytest.raises(TrialFailedError) as caught, of_candidate():
        raise error
    assert caught.value.status is status


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (TrialFailedError(Status.CRASH, "a reason"), Status.CRASH, "a reason"),
        (InvalidCandidateError("not causal"), Status.INVALID, "not causal"),
        (BatchShapeError("a batch of 7 rows"), Status.REJECTED, "a batch of 7 rows"),
        (TooCostlyError("too large"), Status.REJECTED, "too large"),
        (MemoryError(), Status.OOM, "the process of the trial had no memory left"),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: no room\nmore"), Status.OOM, 'XLA says: "RESOURCE_EXHAUSTED: no room"'),
        (JaxRuntimeError("INTERNAL: \x1b[2J"), Status.CRASH, 'XLA says: "INTERNAL'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_way_to_fail_in_a_trial_has_a_status_and_no_score(error: Exception, status: Status, reason: str) -> None:
    def run() -> EvalResult:
        raise error

    answer = Phases(lambda event: None).answer(run)
    assert (answer["status"], answer["value"], answer["snapshot"]) == (status, None, None)
    assert answer["error"].startswith(reason)
    assert "\x1b" not in answer["error"]


def test_a_file_that_cannot_be_read_is_no_candidate_s_fault() -> None:
    error = BadProgramError("it cannot be read")
    error.__cause__ = FileNotFoundError("init.export")
    with pytest.raises(BadProgramError), of_candidate():
        raise error


@pytest.fixture
def slow_source(tiny_source: str) -> str:
    """Judging it takes long enough to be killed in it."""
    return edited(tiny_source, ('return state["table"][tokens]', f'return state["table"][tokens] + 0 * {SPIN}'))


@pytest.fixture
def marked(tmp_path: Path) -> Mapping[str, str]:
    return {**os.environ, MARK: str(tmp_path)}


def killing(folder: Path, times: int, reports: list[Mapping[str, Scalar]]) -> Callable[[Mapping[str, Scalar]], None]:
    """Kills the trial's process when it begins to judge, so many times."""

    def look(report: Mapping[str, Scalar]) -> None:
        reports.append(report)
        if report == {"phase": "judge"} and reports.count(report) <= times:
            (worker,) = (pid for pid in marked_processes(f"{MARK}={folder}") if is_worker(pid))
            os.kill(worker, signal.SIGKILL)

    return look


def is_worker(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"autoresearch_jax.tasks.lm.worker"]


def phases(reports: list[Mapping[str, Scalar]]) -> list[Scalar]:
    return [report["phase"] for report in reports if report.keys() == {"phase"}]


def measure(
    task: LmTask,
    candidate: Candidate,
    folder: Path,
    reports: list[Mapping[str, Scalar]],
    seed: int = 0,
    scrutiny: Scrutiny = Scrutiny.SEARCH,
) -> Measurement:
    return task.measure(
        candidate,
        seed=seed,
        log_dir=folder,
        snapshot_dir=folder / "snapshot",
        on_progress=reports.append,
        scrutiny=scrutiny,
    )


@pytest.mark.slow
def test_a_judge_that_is_killed_changes_no_digit(
    make_task: MakeTask, marked: Mapping[str, str], slow_source: str, tmp_path: Path
) -> None:
    task = make_task(environment=marked, free_judge=600.0)
    undisturbed = run_trial(task, slow_source, tmp_path / "undisturbed")
    reports: list[Mapping[str, Scalar]] = []
    killed = run_trial(task, slow_source, tmp_path / "killed", on_progress=killing(tmp_path, 1, reports))
    assert phases(reports) == [
        *("startup", "compile", "init", "train", "snapshot", "judge"),
        *("startup", "snapshot", "compile", "judge"),
    ]
    assert (undisturbed.status, killed.status) == (Status.OK, Status.OK)
    assert killed.value == undisturbed.value
    assert killed.metrics.keys() == undisturbed.metrics.keys()
    for name in undisturbed.metrics.keys() - OF_TRIAL - OF_JUDGING - OF_DRIVER:
        assert killed.metrics[name] == undisturbed.metrics[name], name
    assert killed.snapshot == tmp_path / "killed" / "snapshot"
    assert killed.metrics["snapshot_sha256"] == sha256_of_file(killed.snapshot / "manifest.json")
    assert killed.metrics["snapshot_seconds"] is None
    assert marked_processes(f"{MARK}={tmp_path}") == []


@pytest.mark.slow
def test_a_kept_snapshot_gives_the_rows_that_it_would_have_given(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    task, folder = make_task(), tmp_path / "trial"
    first = run_trial(task, tiny_source, folder, scrutiny=Scrutiny.AUDIT)
    manifest = (folder / "snapshot" / "manifest.json").read_bytes()
    reports: list[Mapping[str, Scalar]] = []
    candidate = task.prepare(tiny_source, folder)
    again = measure(task, candidate, folder, reports, scrutiny=Scrutiny.AUDIT)
    assert phases(reports) == ["startup", "snapshot", "compile", "judge", "judge holdout"]
    assert (again.status, again.value, again.snapshot) == (Status.OK, first.value, first.snapshot)
    assert again.metrics[HOLDOUT_SCORE] == first.metrics[HOLDOUT_SCORE]
    assert list(again.metrics) == list(first.metrics)
    for name in first.metrics.keys() - OF_JUDGING - OF_DRIVER:
        assert again.metrics[name] == first.metrics[name], name
    assert float(again.metrics["total_seconds"] or 0) > float(first.metrics["training_seconds"] or 0)
    assert (folder / "snapshot" / "manifest.json").read_bytes() == manifest


def flip_a_bit(snapshot: Path) -> str:
    files = (path for path in (snapshot / "state").rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    return f"{largest}: has been changed"


@pytest.mark.slow
def test_a_snapshot_that_is_damaged_is_trained_anew(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    task, folder = make_task(), tmp_path / "trial"
    first = run_trial(task, tiny_source, folder)
    candidate = task.prepare(tiny_source, folder)
    reason = flip_a_bit(folder / "snapshot")
    reports: list[Mapping[str, Scalar]] = []
    again = measure(task, candidate, folder, reports)
    assert phases(reports)[-5:] == ["compile", "init", "train", "snapshot", "judge"]
    assert again.value == first.value
    assert again.metrics["snapshot_sha256"] == sha256_of_file(folder / "snapshot" / "manifest.json")
    assert reason in (folder / "worker.log").read_text()


@pytest.mark.slow
def test_a_snapshot_of_another_trial_is_trained_anew(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    task, folder = make_task(), tmp_path / "trial"
    of_seed_0 = run_trial(task, tiny_source, folder)
    reports: list[Mapping[str, Scalar]] = []
    candidate = task.prepare(tiny_source, folder)
    of_seed_1 = measure(task, candidate, folder, reports, seed=1)
    assert "train" in phases(reports)
    assert of_seed_1.value != of_seed_0.value
    assert "seed 0, of this trial 1: it is of another trial" in (folder / "worker.log").read_text()

    shorter = measure(make_task(Budget(steps=10)), candidate, folder, reports, seed=1)
    assert shorter.metrics["num_steps"] == 10
