"""What the driver makes of a trial's process that dies, fails or hangs: real processes that do so on order."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.sandbox.process import JsonWorker
from autoresearch_jax.tasks.lm.limits import TimeLimits
from autoresearch_jax.tasks.lm.messages import MeasureRequest
from autoresearch_jax.tasks.lm.trial import TaskError, Trial
from autoresearch_jax.types import Budget, Measurement, Scalar, Scrutiny, Status

# Does with each request what the next line of a file says, and writes down what was asked for.
WORKER = """
import json, os, sys, time
from pathlib import Path

def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)

def serve(request, way):
    snapshot, metrics = Path(request["snapshot_dir"]), {"training_seconds": 300.0, "wall_seconds": 1000.0}
    emit("phase", phase="startup")
    if way == "fail early":
        return emit("failed", reason="the dataset is gone")
    if way.startswith("full disk"):
        snapshot.with_name(f".{snapshot.name}.partial").mkdir()
        if way.endswith("judge"):
            snapshot.mkdir()
            emit("phase", phase="judge")
        return emit("failed", reason="no room", disk={"errno": 28, "path": str(snapshot.parent / "data")})
    if way == "unfit":
        return emit("unfit", reason="it was changed")
    if request["op"] == "measure":
        emit("phase", phase="train")
        if way == "die early":
            os._exit(3)
        emit("phase", phase="snapshot")
        if way == "slow disk":
            snapshot.with_name(f".{snapshot.name}.partial").mkdir()
            time.sleep(600)
        snapshot.mkdir()
    emit("phase", phase="judge")
    if way == "hang":
        time.sleep(600)
    if way == "be killed":
        os.kill(os.getpid(), 9)
    if way == "die":
        os._exit(3)
    if way == "fail":
        return emit("failed", reason="a mistake of ours")
    emit("result", status="ok", value=1.5, error=None, snapshot=str(snapshot), metrics=metrics)

ways = Path("ways")
for line in sys.stdin:
    request = json.loads(line)
    way, *rest = ways.read_text().splitlines()
    ways.write_text(chr(10).join(rest))
    with open("asked", "a") as file:
        print(request["op"], os.getppid(), file=file)
    serve(request, way)
"""


class Bench:
    """Runs one trial after the other in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.snapshot_dir = folder / "snapshot"
        self.reports: list[Mapping[str, Scalar]] = []

    def run(self, *ways: str, **limits: float) -> Measurement:
        (self.folder / "ways").write_text("\n".join(ways))
        request = MeasureRequest(
            programs_dir="programs",
            program_hash="a",
            dataset_folder="data",
            sequence_length=8,
            split="val",
            judge_tokens=None,
            scrutiny=Scrutiny.SEARCH,
            seed=7,
            budget=Budget(steps=1),
            clock="wall",
            reference_seconds=None,
            max_stretch=1.0,
            snapshot_dir=str(self.snapshot_dir),
            log_dir=str(self.folder),
            device_memory_bytes=None,
            min_steps=1,
            free_init_seconds=1.0,
            free_judge_seconds=1.0,
            facts={},
        )
        trial = Trial(
            request,
            limits=TimeLimits(**limits),
            facts={"num_params": 5},
            log_path=self.folder / "log",
            start_worker=self._start_worker,
            on_progress=self.reports.append,
        )
        return trial.run(self._start_worker())

    def asked(self) -> list[str]:
        """What the processes were asked for."""
        return [line.rpartition(" ")[0] for line in self._asked()]

    def num_processes(self) -> int:
        return len({line.rpartition(" ")[2] for line in self._asked()})

    def _asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def _start_worker(self) -> JsonWorker:
        command = [sys.executable, "-c", WORKER]
        return JsonWorker(command, environment=os.environ, cwd=self.folder, log_path=self.folder / "log")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_trial_that_nothing_befalls_is_judged_once(bench: Bench) -> None:
    measured = bench.run("go well")
    assert (measured.status, measured.value, measured.seed) == (Status.OK, 1.5, 7)
    assert measured.metrics.keys() == {"num_params", "training_seconds", "wall_seconds", "total_seconds"}
    assert float(measured.metrics["total_seconds"] or 0) < 1000
    assert measured.snapshot == bench.snapshot_dir
    assert bench.asked() == ["measure"]


@pytest.mark.parametrize("mishap", ["be killed", "die", "fail"])
def test_what_befalls_the_judge_alone_costs_the_judging(mishap: str, bench: Bench) -> None:
    measured = bench.run(mishap, mishap, mishap, "go well")
    assert (measured.status, measured.value) == (Status.OK, 1.5)
    assert measured.metrics["judgings"] == 4
    assert bench.asked() == ["measure", *["judge again"] * 3]
    assert bench.num_processes() == 4
    assert [report["phase"] for report in bench.reports].count("train") == 1


@pytest.mark.parametrize(
    ("mishap", "status", "words"),
    [("be killed", Status.OOM, "was killed by SIGKILL"), ("die", Status.CRASH, "exited with status 3")],
)
def test_it_is_given_up_after_three_more_times(mishap: str, status: Status, words: str, bench: Bench) -> None:
    measured = bench.run(*[mishap] * 4, "go well")
    assert (measured.status, measured.value) == (status, None)
    assert (
        measured.error
        == f"the worker process {words} during judge, judged 4 times from one snapshot; see {bench.folder / 'log'}"
    )
    assert measured.metrics == {"judgings": 4}
    assert measured.snapshot == bench.snapshot_dir


def test_a_harness_that_fails_each_time_is_no_fault_of_the_candidate(bench: Bench) -> None:
    with pytest.raises(TaskError, match="the trial process failed: a mistake of ours; see "):
        bench.run(*["fail"] * 4, "go well")
    assert len(bench.asked()) == 4


@pytest.mark.parametrize("way", ["die early", "fail early"])
def test_without_a_snapshot_there_is_nothing_to_judge_again(way: str, bench: Bench) -> None:
    if way == "fail early":
        with pytest.raises(TaskError, match="the dataset is gone"):
            bench.run(way, "go well")
    else:
        measured = bench.run(way, "go well")
        assert (measured.status, measured.snapshot, measured.metrics) == (Status.CRASH, None, {})
        assert (measured.error or "").startswith("the worker process exited with status 3 during train; see")
    assert bench.asked() == ["measure"]


def test_a_judge_that_takes_too_long_is_not_asked_again(bench: Bench) -> None:
    measured = bench.run("hang", "go well", judge=0.2)
    assert (measured.status, measured.error) == (Status.TIMEOUT, "judge took longer than 0.2 s")
    assert measured.snapshot == bench.snapshot_dir
    assert bench.asked() == ["measure"]


def test_a_second_judging_has_the_limits_of_the_first(bench: Bench) -> None:
    measured = bench.run("die", "hang", "go well", judge=0.2)
    assert (measured.status, measured.error) == (Status.TIMEOUT, "judge took longer than 0.2 s")
    assert measured.metrics == {"judgings": 2}


def test_a_slow_disk_is_no_fault_of_the_candidate(bench: Bench) -> None:
    with pytest.raises(TaskError, match=f"snapshot took longer than 0.2 s: the disk that holds {bench.folder} is slow"):
        bench.run("slow disk", snapshot=0.2)


def test_a_snapshot_that_is_there_is_judged_and_its_training_counted(bench: Bench) -> None:
    bench.snapshot_dir.mkdir()
    measured = bench.run("go well")
    assert (measured.status, measured.value) == (Status.OK, 1.5)
    assert 1000 < float(measured.metrics["total_seconds"] or 0) < 2000
    assert "judgings" not in measured.metrics
    assert bench.asked() == ["judge again"]


def test_a_snapshot_that_is_there_and_unfit_makes_room(bench: Bench) -> None:
    bench.snapshot_dir.mkdir()
    (bench.snapshot_dir / "file").touch()
    measured = bench.run("unfit", "go well")
    assert (measured.status, measured.value) == (Status.OK, 1.5)
    assert float(measured.metrics["total_seconds"] or 0) < 1000
    assert bench.asked() == ["judge again", "measure"]
    assert bench.num_processes() == 1
    assert list(bench.snapshot_dir.iterdir()) == []


def test_a_snapshot_that_is_there_is_judged_again_as_often(bench: Bench) -> None:
    bench.snapshot_dir.mkdir()
    assert bench.run(*["die"] * 3, "go well").metrics["judgings"] == 4
    with pytest.raises(TaskError, match="the dataset is gone"):
        bench.run("fail early", "go well")
    assert bench.asked() == ["judge again"] * 5


def test_a_trial_s_own_snapshot_that_is_damaged_is_told(bench: Bench) -> None:
    with pytest.raises(TaskError, match="the trial cannot be judged again: it was changed; see "):
        bench.run("die", "unfit", "go well")
    assert bench.snapshot_dir.exists()


@pytest.mark.parametrize("before", ["startup", "judge"])
def test_a_trial_that_the_disk_fails_says_so_at_once_and_leaves_nothing_half_written(before: str, bench: Bench) -> None:
    with pytest.raises(TaskError, match="the trial process failed: no room; see ") as caught:
        bench.run(f"full disk at {before}", "go well")
    assert (
        disk_trouble(caught.value) == f"{bench.folder}/data: the disk is full: free some space, or move the run's "
        "folder (--run_dir)"
    )
    assert bench.asked() == ["measure"]
    assert list(bench.folder.glob(".*.partial")) == []


def test_a_disk_that_is_slow_is_a_disk_s_trouble(bench: Bench) -> None:
    with pytest.raises(TaskError) as caught:
        bench.run("slow disk", snapshot=0.2)
    assert (disk_trouble(caught.value) or "").startswith(f"{bench.folder}: its disk takes too long: use another one")
    assert list(bench.folder.glob(".*.partial")) == []
