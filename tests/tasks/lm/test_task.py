"""The language-model task with its real processes: traced, trained, snapshot, judged, refused, killed."""

import csv
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lm_trials import MakeTask, measure_in, run_trial
from marked_processes import comes_true, marked_processes
from tracing import edited

from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.sandbox.accounting import ATTENDED, WALL
from autoresearch_jax.sandbox.priority import lower_priority_of_this_thread
from autoresearch_jax.sandbox.sandbox import Level, Sandbox, SandboxError
from autoresearch_jax.tasks.lm.data.dataset import Dataset, DatasetChangedError, rows_file
from autoresearch_jax.tasks.lm.device import Device
from autoresearch_jax.tasks.lm.integrity import SnapshotError
from autoresearch_jax.tasks.lm.judge import Scorer, judge, load_eval_set
from autoresearch_jax.tasks.lm.measure import LOSS_CURVE_FILE
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.snapshot import load_snapshot
from autoresearch_jax.tasks.lm.trial import TaskError
from autoresearch_jax.types import (
    HOLDOUT_SCORE,
    Candidate,
    CandidateRejected,
    Scalar,
    Scrutiny,
    Status,
)


@pytest.mark.slow
def test_closing_ends_a_trace_that_runs_beside_and_does_not_blame_what_is_traced(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    begun, raised = tmp_path / "trace.log", []
    body = "import time\nprint('begun', flush=True)\ntime.sleep(100)\n"
    source = edited(tiny_source, ("UNUSED = 1", f"exec({body!r})"))
    task = make_task()

    def prepare() -> None:
        try:
            task.prepare(source, tmp_path, beside_a_trial=True)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=prepare)
    thread.start()
    assert comes_true(lambda: begun.exists() and "begun" in begun.read_text(), 300)
    task.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [type(error) for error in raised] in ([TaskError], [SandboxError])
    assert marked_processes(str(tmp_path)) == []
    task.prepare(tiny_source, tmp_path, beside_a_trial=True)  # it can be used again


class WaitingWorker:
    """A process that answers nothing until it is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def test_closing_ends_each_check_that_runs_beside(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[WaitingWorker] = []
    begun = threading.Barrier(3)

    def start_worker(*arguments: object, **settings: object) -> WaitingWorker:
        workers.append(WaitingWorker())
        return workers[-1]

    def prepare_candidate(config: object, source: str, log_dir: Path, worker: WaitingWorker, *more: object) -> None:
        begun.wait(60)
        worker.closed.wait(60)

    task = make_task()
    monkeypatch.setattr("autoresearch_jax.tasks.lm.task.start_worker", start_worker)
    monkeypatch.setattr("autoresearch_jax.tasks.lm.task.prepare_candidate", prepare_candidate)
    look_ahead = threading.Thread(target=lambda: task.prepare("", tmp_path, beside_a_trial=True))
    again = threading.Thread(target=lambda: task.prepare_again("", tmp_path))
    look_ahead.start()
    again.start()
    begun.wait(60)
    task.close()
    assert [worker.closed.is_set() for worker in workers] == [True, True]
    look_ahead.join()
    again.join()


@pytest.mark.slow
def test_a_disk_that_is_full_while_a_candidate_is_traced_is_no_fault_of_it(
    make_task: MakeTask, tiny_source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = edited(tiny_source, ("UNUSED = 1", "raise OSError(28, 'No space left on device')"))
    with pytest.raises(CandidateRejected, match="No space left on device"):
        make_task().prepare(source, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    with pytest.raises(TaskError, match="No space left on device") as caught:
        make_task().prepare(source, tmp_path)
    assert (disk_trouble(caught.value) or "").startswith(f"{tmp_path / 'programs'}: the disk is full")


def test_a_trial_from_source_to_score(
    make_task: MakeTask,
    tiny_source: str,
    tiny_dataset: Dataset,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # not below tmp_path, to which trials write
    blind = shutil.copytree(tiny_dataset.folder, tmp_path_factory.mktemp("dataset") / "copy")
    holdout_rows = blind / rows_file(256, 32, "holdout")
    holdout_rows.write_bytes(bytes(holdout_rows.stat().st_size))  # as large as it was, and not to be opened
    task = make_task(dataset=Dataset.open(blind, sequence_length=32), clock=ATTENDED)
    assert (task.terms["clock"], task.calibrate(None, tmp_path)) == (WALL, None)  # of a budget in steps
    candidate = task.prepare(tiny_source, tmp_path)
    tiny_dataset.manifest.with_files(blind, [], {"rows/of-another-length.npy": 1}).save(blind)  # as by `prepare`
    first = measure_in(task, candidate, tmp_path / "first", seed=2**40 + 3)
    assert (first.status, first.error) == (Status.OK, None)
    metrics = first.metrics
    assert (metrics["num_steps"], metrics["num_tokens"], metrics["compiles_in_budget"]) == (30, 30 * 8 * 32, 0)
    assert 0 < int(metrics["num_probes"] or 0) < len(tiny_dataset.rows(256, "val")), "all rows only before a keep"
    assert metrics["clock"] == WALL
    assert not {"reference_seconds", "attended_share", "machine_speed"} & metrics.keys()
    phases = ["startup", "compile", "init", "snapshot", "judge"]
    parts = sum(float(metrics[f"{phase}_seconds"] or 0) for phase in phases) + float(metrics["training_seconds"] or 0)
    assert 0 < parts < float(metrics["total_seconds"] or 0)
    with (tmp_path / "first" / LOSS_CURVE_FILE).open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert metrics["train_loss"] == pytest.approx(losses[-1], abs=1e-5)

    keep = measure_in(task, candidate, tmp_path / "keep", seed=2**40 + 3, scrutiny=Scrutiny.KEEP)
    assert keep.value == first.value
    assert int(keep.metrics["num_probes"] or 0) > len(tiny_dataset.rows(256, "val"))
    assert not {HOLDOUT_SCORE, "judge_holdout_seconds"} & {*keep.metrics}
    with pytest.raises(
        TaskError, match=r"holdout\.npy cannot be read \(.*\): remove it and run `autoresearch prepare "
    ):
        measure_in(task, candidate, tmp_path / "blind", scrutiny=Scrutiny.AUDIT)

    reports: list[Mapping[str, Scalar]] = []
    audit = measure_in(
        make_task(), candidate, tmp_path / "audit", seed=2**40 + 3, reports=reports, scrutiny=Scrutiny.AUDIT
    )
    assert audit.value == first.value
    told = list(dict.fromkeys(report["phase"] for report in reports))
    assert told == ["startup", "compile", "init", "train", "snapshot", "judge", "judge holdout"]
    assert float(audit.metrics["judge_holdout_seconds"] or 0) > 0

    # the snapshot alone gives both scores again, to the last bit
    mesh = make_mesh({"data": 1, "model": 1})
    assert audit.snapshot == tmp_path / "audit" / "snapshot"
    snapshot = load_snapshot(audit.snapshot, mesh)
    assert (snapshot.manifest["split"], snapshot.manifest["fingerprint"]) == ("val", tiny_dataset.fingerprint)
    scorer = Scorer(snapshot.programs, mesh, max(snapshot.programs.logits))
    for split, value in (("val", first.value), ("holdout", audit.metrics[HOLDOUT_SCORE])):
        eval_set = load_eval_set(tiny_dataset, 256, split, None, snapshot.manifest["seed"])
        assert judge(scorer, snapshot.read_leaves, eval_set, random=np.random.default_rng()).bpb == value
    assert audit.metrics[HOLDOUT_SCORE] != audit.value
    state = audit.snapshot / "state"
    largest = max((path for path in state.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.unlink()
    with pytest.raises(SnapshotError, match="snapshot/state: cannot be read"):
        load_snapshot(audit.snapshot, mesh)


@pytest.mark.slow
def test_a_dataset_that_changes_under_a_run_is_not_measured_with(
    make_task: MakeTask, tiny_source: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_dataset.folder, tmp_path / "copy")
    task = make_task(dataset=Dataset.open(copy, sequence_length=32))
    manifest = (copy / "manifest.json").read_text()
    digest = tiny_dataset.manifest.files[rows_file(256, 32, "val")].sha256

    def change(progress: Mapping[str, Scalar]) -> None:
        (copy / "manifest.json").write_text(manifest.replace(digest, "0" * 64))

    changed = r"the dataset .*copy was made anew while it was in use"
    with pytest.raises(DatasetChangedError, match=changed):
        run_trial(task, tiny_source, tmp_path / "during", on_progress=change)
    shutil.rmtree(copy)
    with pytest.raises(DatasetChangedError, match=r"was removed, in part or whole, .*: run `autoresearch prepare "):
        run_trial(task, tiny_source, tmp_path / "gone")


@pytest.mark.slow
def test_two_devices_compute_what_one_does(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    one = run_trial(make_task(), tiny_source, tmp_path / "one")
    two = run_trial(make_task(mesh_axes={"data": 2, "model": 1}), tiny_source, tmp_path / "two")
    assert (one.metrics["num_devices"], two.metrics["num_devices"]) == (1, 2)
    assert two.value == pytest.approx(one.value, rel=1e-5)


def test_what_cannot_be_traced_is_refused_in_one_line(
    make_task: MakeTask, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """For the ways in which a trace ends see test_preparing.py and the red team."""
    with pytest.raises(CandidateRejected) as caught:
        make_task().prepare(edited(tiny_source, ("UNUSED = 1", "open('/etc/passwd'); {}['x']")), tmp_path)
    assert caught.value.status is Status.CRASH
    hidden = r"(FileNotFound|Permission)Error: .*; in the sandbox it finds no file but its own"
    error = "KeyError: 'x'\"" if sandbox.level is Level.LIMITS else hidden
    assert re.fullmatch(f'the training file failed, in its own words: "train_lib.py:11: {error}', caught.value.reason)
    assert caught.value.facts == {"sandbox": sandbox.level}
    assert not list((tmp_path / "programs").iterdir())  # nothing half-made is left


@pytest.mark.slow
def test_a_batch_must_divide_over_the_devices(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    source = edited(tiny_source, ("BATCH_SIZE = 8", "BATCH_SIZE = 7"))
    with pytest.raises(CandidateRejected, match="a batch of 7 rows does not divide over the 2 devices of 'data'"):
        make_task(mesh_axes={"data": 2, "model": 1}).prepare(source, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("device_bytes", [2**22, 2**18])
def test_the_judge_takes_the_batch_that_fits(
    device_bytes: int, make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    hungry = "state['table'][tokens] + 0 * jnp.linalg.norm(jax.random.normal(jax.random.key(0), (*tokens.shape, 256)))"
    source = edited(tiny_source, ('return state["table"][tokens]', f"return {hungry}"))
    task = make_task(device=Device("cpu", "cpu", 1, device_bytes))
    measurement = run_trial(task, source, tmp_path / "trial")
    if device_bytes == 2**22:
        assert measurement.metrics["judge_batch_rows"] in (2, 8)
    else:
        assert measurement.status is Status.REJECTED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "logits"),
    [("()", "jnp.zeros((*tokens.shape, VOCAB_SIZE))"), ("(0, 3)", 'state["table"][tokens] + state["extra"].sum()')],
    ids=["reads nothing", "reads an empty array"],
)
def test_a_state_without_much_in_it_can_be_judged_and_kept(
    extra: str, logits: str, make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    source = edited(
        tiny_source,
        ('return {"table"', f'return {{"extra": jnp.zeros({extra}), "table"'),
        ('new_state = {"table"', 'new_state = {"extra": state["extra"], "table"'),
        ('return state["table"][tokens]', f"return {logits}"),
    )
    measurement = run_trial(make_task(), source, tmp_path / "trial")
    assert measurement.status is Status.OK
    assert measurement.snapshot is not None
    snapshot = load_snapshot(measurement.snapshot, make_mesh({"data": 1, "model": 1}))
    avals = [snapshot.programs.init.out_avals[i] for i in snapshot.programs.read_leaves]
    assert [(leaf.shape, leaf.dtype) for leaf in snapshot.read_leaves] == [(a.shape, a.dtype) for a in avals]


@pytest.mark.slow
def test_another_candidate_is_traced_beside_a_trial_and_neither_disturbs_the_other(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    task = make_task()
    alone = run_trial(task, tiny_source, tmp_path / "alone")
    (tmp_path / "beside").mkdir()
    (tmp_path / "trial").mkdir()
    first = task.prepare(tiny_source, tmp_path / "trial")
    found: list[Candidate] = []

    def look_ahead() -> None:
        lower_priority_of_this_thread()
        found.append(
            task.prepare(
                edited(tiny_source, ("LEARNING_RATE = 10.0", "LEARNING_RATE = 8.0")),
                tmp_path / "beside",
                beside_a_trial=True,
            )
        )

    thread = threading.Thread(target=look_ahead)
    thread.start()
    measured = task.measure(first, seed=0, log_dir=tmp_path / "trial", snapshot_dir=tmp_path / "trial" / "snapshot")
    thread.join()
    assert measured.value == alone.value
    (other,) = found
    assert other.program_hash != first.program_hash
    later = task.measure(other, seed=0, log_dir=tmp_path / "beside", snapshot_dir=tmp_path / "beside" / "snapshot")
    assert later.status is Status.OK
    assert later.value != alone.value
