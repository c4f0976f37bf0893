"""Trials on the nodes of a real Ray cluster, all of it on this machine in a network of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from executor_contract import SECONDS, Trials, check_answers, check_running
from marked_processes import MARK, comes_true
from ray_nodes import FILES, INSIDE, NODE, NodeMeasurer, add_node, describe, run_inside
from repositories import git

from autoresearch_jax import cli
from autoresearch_jax.commands import prepare
from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.executors import describe_task, task_files
from autoresearch_jax.commands.init import COMMAND_FILES
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.base import Finished, Work
from autoresearch_jax.executors.ray_ import RayExecutor, resource_name
from autoresearch_jax.executors.ray_node import (
    FAILED,
    LOG,
    MEASURED,
    PROGRESS,
    Event,
    error_from_data,
    measurement_from_data,
    order_of,
    read_frames,
    run_trial,
    write_folder,
    write_frame,
)
from autoresearch_jax.tasks.command.task import machine_terms
from autoresearch_jax.types import Candidate, Measurement, Scalar, Status, TermsChanged

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

TERMS = NodeMeasurer.terms
inside = pytest.mark.skipif(INSIDE not in os.environ, reason="run by the first test, in a network of its own")


@pytest.mark.slow
@pytest.mark.skipif(INSIDE in os.environ, reason="runs the others")
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is missing: ./scripts/setup.sh ray")
def test_the_others_in_a_network_of_their_own() -> None:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
        done = run_inside(command, Path(folder))
    if "unshare" in done.stderr:
        pytest.skip(f"no network of its own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_frames_give_folders_again(tmp_path: Path) -> None:
    first = tmp_path / "first"
    (first / "a" / "empty").mkdir(parents=True)
    (first / "a" / "run").write_text("#!/bin/sh\n")
    (first / "a" / "run").chmod(0o755)
    (first / "nothing").touch()
    (first / "long.log").write_text("1234567890")
    write_folder(tmp_path / "second", list(read_frames(first, most=4)))
    second = tmp_path / "second"
    assert sorted(path.relative_to(second).as_posix() for path in second.rglob("*")) == [
        *("a", "a/empty", "a/run", "long.log", "nothing")
    ]
    assert (second / "long.log").read_text() == "1234"
    assert os.access(second / "a" / "run", os.X_OK)
    for name in ("../out", "/out", "a/../../out"):
        with pytest.raises(ValueError, match="out"):
            write_frame(second, (name, 0o644, b""))


def test_a_node_measures_what_plain_data_say(tmp_path: Path) -> None:
    work = Work(Candidate("answer", "a hash", facts={MARK: str(tmp_path)}), 1, tmp_path, tmp_path / "snapshot")

    def run(**changed: Scalar) -> list[Event]:
        order = {**order_of(work), **describe(**changed), "id": "1-0", "reports": True}
        return list(run_trial(json.loads(json.dumps(order)), FILES, None, []))

    *before, (kind, found) = run()
    assert (kind, measurement_from_data(found, work.snapshot_dir)) == (MEASURED, Measurement(Status.OK, 2.5, 1))
    assert [kind for kind, _ in before] == [PROGRESS, LOG]
    *before, (kind, found) = run(jax_version="2")
    assert (kind, before) == (FAILED, [])
    error = error_from_data(found)
    assert isinstance(error, TermsChanged)
    assert "jax_version is 1 there, 2 here" in str(error)
    gpus = {"platform": "cuda", "device_kind": "NVIDIA H100 80GB HBM3", "num_devices": 8}
    assert resource_name(gpus) == "autoresearch-8-x-nvidia-h100-80gb-hbm3"


@inside
def test_without_a_cluster_one_line_says_how_to_begin_one() -> None:
    with pytest.raises(UsageError, match=r"--ray_address=auto: .*`ray start --head`"):
        RayExecutor(describe, TERMS)


@pytest.fixture(scope="module")
def cluster() -> "Iterator[Cluster]":
    """A head, which runs no trials, and two nodes that do."""
    from ray.cluster_utils import Cluster

    head = {**NODE, "include_dashboard": False, "ray_client_server_port": 10001}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            add_node(cluster, TERMS)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def equal_node(cluster: "Cluster") -> None:
    """Adds a node of this machine's own class."""
    add_node(cluster, machine_terms("wall"))


@pytest.fixture
def make(cluster: "Cluster") -> Callable[[], RayExecutor]:
    return lambda: RayExecutor(describe, TERMS, address=cluster.address, files=FILES)


@inside
def test_a_cluster_keeps_the_contract(make: Callable[[], RayExecutor], tmp_path: Path) -> None:
    check_answers(make, tmp_path)
    check_running(make, tmp_path)


@inside
def test_two_drivers_share_a_cluster_and_each_has_its_own_answers(
    cluster: "Cluster", make: Callable[[], RayExecutor], tmp_path: Path
) -> None:
    trials = Trials(make(), tmp_path / "own")
    ticket = trials.submit("wait")
    assert trials.has_begun(1)
    other = "import sys, ray_nodes; print(ray_nodes.drive(*sys.argv[1:]))"
    words = [sys.executable, "-c", other, cluster.address, str(tmp_path / "other")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.strip() == "[102.5, 103.5, 104.5, 105.5]", done.stderr
    assert trials.executor.next_finished(0) is None
    (trials.logs / "go").touch()
    found = trials.next()
    assert (found.ticket, found.result().value) == (ticket, 2.5)
    trials.executor.close()


@inside
def test_a_trial_whose_node_is_lost_is_answered_once(
    cluster: "Cluster", make: Callable[[], RayExecutor], tmp_path: Path
) -> None:
    trials = Trials(make(), tmp_path)
    tickets = [trials.submit("wait"), trials.submit("wait")]
    begun = [trials.logs / f"{seed}.begun" for seed in (1, 2)]
    assert trials.has_begun(1)
    assert trials.has_begun(2)
    for path in begun:
        path.unlink()
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    add_node(cluster, TERMS)
    assert comes_true(lambda: trials.executor.next_finished(0.1) is None and any(path.exists() for path in begun), 60.0)
    (trials.logs / "go").touch()
    found = [trials.next() for _ in tickets]
    assert {one.ticket: one.result().value for one in found} == dict(zip(tickets, (2.5, 3.5), strict=True))
    assert sum(path.exists() for path in begun) == 1
    with pytest.raises(IndexError):
        trials.executor.next_finished(0)
    trials.executor.close()
    assert comes_true(lambda: trials.left() == [], SECONDS)


@inside
def test_a_node_that_does_not_fit_is_refused_and_both_sides_are_named(cluster: "Cluster", tmp_path: Path) -> None:
    other = {**TERMS, "device_kind": "Another GPU"}
    with pytest.raises(UsageError, match=rf"{resource_name(other)}.*{resource_name(TERMS)}"):
        RayExecutor(describe, other, address=cluster.address)
    with closing(
        RayExecutor(lambda: describe(jax_version="2"), TERMS, address=cluster.address, files=FILES)
    ) as executor:
        trials = Trials(executor, tmp_path)
        trials.submit("answer")
        with pytest.raises(TermsChanged, match="jax_version is 1 there, 2 here"):
            trials.next().result()


@inside
@pytest.mark.usefixtures("equal_node")
def test_a_real_trial_on_a_node_scores_as_here(
    cluster: "Cluster", tiny_corpus: str, tiny_source: str, tmp_path: Path
) -> None:
    dataset = DatasetOptions(
        corpus=tiny_corpus,
        cache_dir=tmp_path / "cache",
        data_dir=tmp_path / "data",
        sequence_length=32,
        vocab_sizes=(256, 320),
    )
    assert prepare.run(prepare.Options(dataset), []) == 0
    options = TaskOptions(dataset=dataset, budget_steps=30, platform="cpu", judge_tokens=4000)
    folders = {place: tmp_path / place for place in ("here", "there")}
    for folder in folders.values():
        folder.mkdir()
    with closing(options.make_task(tmp_path / "run", Path("train_lib.py"))) as task:
        candidate = task.prepare(tiny_source, folders["here"])
        here = task.measure(
            candidate, seed=5, log_dir=folders["here"], snapshot_dir=tmp_path / "run" / "snapshots" / "here"
        )

        def measure(changed: DatasetOptions) -> tuple[Finished, list[object]]:
            description = describe_task(replace(options, dataset=changed), Path("train_lib.py"), task, None)
            files, told = task_files(options), list[object]()
            with closing(
                RayExecutor(lambda: description, task.terms, address=cluster.address, files=files)
            ) as executor:
                snapshot = tmp_path / "snapshot"
                executor.submit(Work(candidate, 5, folders["there"], snapshot, on_progress=told.append))
                finished = executor.next_finished(600.0)
            assert finished is not None
            return finished, told

        finished, told = measure(replace(dataset, data_dir=tmp_path / "made by the node"))
        there = finished.result()
        assert (there.status, there.value, there.seed) == (here.status, here.value, 5)
        assert told
        curves = [(folder / "loss.csv").read_text().splitlines()[0] for folder in folders.values()]
        assert curves[0] == curves[1]
        assert here.snapshot is not None
        assert there.snapshot == tmp_path / "snapshot"
        names = [sorted(path.name for path in folder.iterdir()) for folder in (here.snapshot, there.snapshot)]
        assert names[0] == names[1]
        missing = f"files:{tmp_path}/none/*.txt"
        assert isinstance((error := measure(replace(dataset, corpus=missing))[0].error), TermsChanged)
        assert missing in str(error)


@inside
@pytest.mark.usefixtures("equal_node")
def test_a_run_of_a_command_task_measures_on_a_node_and_goes_on_there(
    cluster: "Cluster", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q", "-b", "main")
    assert cli.main(["init", "--task=command"]) == 0
    git(tmp_path, "add", *COMMAND_FILES)
    git(tmp_path, "commit", "-q", "-m", "start")
    flags = ["--task=command", "--clock=wall", "--budget_seconds=600", "--seed=0", f"--cache_dir={tmp_path / 'cache'}"]
    where = ["--workers=ray", f"--ray_address={cluster.address}"]
    handler = signal.getsignal(signal.SIGTERM)
    assert cli.main(["run", "--tag=night", *flags, *where, "--proposer=constants", "--experiments=0"]) == 0
    assert cli.main(["run", "--tag=night", "--experiments=1"]) == 0  # with the flags that it had
    assert signal.getsignal(signal.SIGTERM) is handler
    capsys.readouterr()
    assert cli.main(["status", "--tag=night", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experiments"] == 1
    assert found["baseline_length"] > 0
    assert cli.main(["verify", "--tag=night"]) == 0, "the snapshots came whole"


@inside
def test_through_the_client_answers_come_without_progress(cluster: "Cluster", tmp_path: Path) -> None:
    with closing(RayExecutor(describe, TERMS, address="ray://127.0.0.1:10001", files=FILES)) as executor:
        trials = Trials(executor, tmp_path)
        hanging, answering = trials.submit("hang"), trials.submit("answer")
        assert trials.next().ticket == answering
        executor.cancel(hanging)
        assert comes_true(lambda: trials.left() == [], SECONDS)
        assert trials.told == []
