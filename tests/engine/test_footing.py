"""A run that another driver took over, or whose disk is full, goes no further, whatever it is at."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.engine.disk import DiskError, DiskGuard
from autoresearch_jax.engine.driver_lock import DriverLock, DriverLockError
from autoresearch_jax.engine.footing import Footing
from autoresearch_jax.engine.loop import Loop
from autoresearch_jax.sandbox.machine import this_process
from autoresearch_jax.types import CandidateRejected, Measurement, Status

BETTER = moved(LR=0.1)


class Meddled(FakeTask):
    """Something happens during a step of one candidate: the first that is not the baseline."""

    def __init__(self, **happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    def prepare(self, source, log_dir, **options):
        if self.is_of_candidate(source) and "prepare" in self._happens:
            self._happens["prepare"]()
            raise CandidateRejected(Status.REJECTED, "no build")
        return super().prepare(source, log_dir, **options)

    def measure(self, candidate, *, seed, **options):
        if self.is_of_candidate(candidate.source):
            if "crash" in self._happens:
                self._happens["crash"]()
                return Measurement(Status.CRASH, None, seed, error="no space left")
            if "measure" in self._happens:
                self._happens["measure"]()
        return super().measure(candidate, seed=seed, **options)

    @staticmethod
    def is_of_candidate(source: str) -> bool:
        return "LR = 0.1" in source


@pytest.fixture
def lock(bench) -> Iterator[DriverLock]:
    bench.folder.create()
    with bench.folder.lock() as lock:
        yield lock


class Disk(DiskGuard):
    """A disk that is full from some moment on."""

    is_full = False

    def fill(self) -> None:
        self.is_full = True

    def require_room(self, more_bytes: int = 0) -> None:
        if self.is_full:
            raise DiskError("the disk is full")


def loop_on(bench, task: FakeTask, footing: Footing) -> Loop:
    """A loop of one experiment."""
    return bench.loop(task, ScriptedProposer([BETTER]), max_experiments=1, footing=footing)


def take_over(bench) -> None:
    """What a driver on another machine does that takes this one for dead."""
    process = {**asdict(this_process()), "host": "elsewhere", "boot": "another-boot"}
    (bench.folder.path / "driver.lock").write_text(json.dumps({**process, "token": "its own"}) + "\n")


@pytest.mark.parametrize("step", ["measure", "crash", "prepare"])
def test_a_driver_whose_run_was_taken_over_writes_down_nothing_more(bench, lock: DriverLock, step: str) -> None:
    seen: list[str] = []

    def happens() -> None:
        seen.append(bench.folder.results.read_text())
        take_over(bench)

    with pytest.raises(DriverLockError, match="on elsewhere took this run over"):
        loop_on(bench, Meddled(**{step: happens}), Footing(DiskGuard(bench.folder, 0), lock)).run()
    ledger = bench.ledger()
    assert ledger.experiment(1).is_open
    assert [trial.status for trial in ledger.trials(1)] == ([] if step == "prepare" else [None])
    assert [bench.folder.results.read_text()] == seen
    assert [row.id for row in bench.recorder.ended] == [0]


def test_a_driver_whose_run_was_taken_over_does_not_conclude(
    bench, lock: DriverLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it was still its own after the last trial."""
    loop = loop_on(bench, FakeTask(), Footing(DiskGuard(bench.folder, 0), lock))
    evaluate = loop._evaluation.evaluate

    def evaluate_and_lose(experiment):
        ending = evaluate(experiment)
        if experiment.id == 1:
            take_over(bench)
        return ending

    monkeypatch.setattr(loop._evaluation, "evaluate", evaluate_and_lose)
    with pytest.raises(DriverLockError):
        loop.run()
    assert bench.ledger().experiment(1).is_open
    assert bench.ledger().trials(1)[-1].status is Status.OK


def test_a_run_that_was_taken_over_goes_on_elsewhere_as_if_nothing_had_been(bench, lock: DriverLock) -> None:
    task = Meddled(measure=lambda: take_over(bench))
    with pytest.raises(DriverLockError):
        loop_on(bench, task, Footing(DiskGuard(bench.folder, 0), lock)).run()
    loop_on(bench, FakeTask(), Footing(DiskGuard(bench.folder, 0))).run()
    assert bench.ledger().experiment(1).decision == "keep"


@pytest.mark.parametrize("step", ["crash", "prepare"])
def test_of_a_full_disk_no_candidate_is_to_blame(bench, step: str) -> None:
    disk = Disk(bench.folder, 0)
    with pytest.raises(DiskError, match="the disk is full"):
        loop_on(bench, Meddled(**{step: disk.fill}), Footing(disk)).run()
    assert bench.ledger().experiment(1).is_open
    assert bench.ledger().experiment(1).decision is None
    loop_on(bench, FakeTask(), Footing(DiskGuard(bench.folder, 0))).run()
    assert bench.ledger().experiment(1).decision == "keep", "it is measured where there is room"
