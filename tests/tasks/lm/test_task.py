"""The language-model task with its real processes: traced, trained, snapshot, judged, refused, killed."""

import csv
import shutil
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lm_trials import MakeTask, measure_in, run_trial
from marked_processes import comes_true, marked_processes
from tracing import edited

from autoresearch_jax.engine.disk import disk_trouble
from autoresearch_jax.sandbox.priority import lower_priority_of_this_thread
from autoresearch_jax.sandbox.sandbox import SandboxError
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
    Budget,
    Candidate,
    CandidateRejected,
    Scalar,
    Scrutiny,
    Status,
)

slow = partial(pytest.param, marks=pytest.mark.slow)  # what `autoresearch trial` and the red team's tests see, too
FAILED, BROKEN = 'the training file failed, in its own words: "', 'the contract is not kept: "'


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
    make_task: MakeTask, tiny_source: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    task = make_task()
    candidate = task.prepare(tiny_source, tmp_path)
    first = measure_in(task, candidate, tmp_path / "first", seed=2**40 + 3)
    assert first.status is Status.OK
    assert first.error is None
    metrics = first.metrics
    assert metrics["num_steps"] == 30
    assert metrics["num_tokens"] == 30 * 8 * 32
    assert metrics["compiles_in_budget"] == 0
    assert 0 < int(metrics["num_probes"] or 0) < len(tiny_dataset.rows(256, "val")), "all rows only before a keep"
    phases = ["startup", "compile", "init", "snapshot", "judge"]
    parts = sum(float(metrics[f"{phase}_seconds"] or 0) for phase in phases) + float(metrics["training_seconds"] or 0)
    assert 0 < parts < float(metrics["total_seconds"] or 0)
    with (tmp_path / "first" / LOSS_CURVE_FILE).open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert metrics["train_loss"] == pytest.approx(losses[-1], abs=1e-5)

    again = measure_in(task, candidate, tmp_path / "again", seed=2**40 + 3)
    assert again.value == first.value

    # the snapshot alone gives the score again
    mesh = make_mesh({"data": 1, "model": 1})
    assert first.snapshot == tmp_path / "first" / "snapshot"
    snapshot = load_snapshot(first.snapshot, mesh)
    scorer = Scorer(snapshot.programs, mesh, max(snapshot.programs.logits))
    eval_set = load_eval_set(tiny_dataset, 256, "val", None, snapshot.manifest["seed"])
    result = judge(scorer, snapshot.read_leaves, eval_set, random=np.random.default_rng())
    assert result.bpb == first.value
    assert snapshot.manifest["fingerprint"] == tiny_dataset.fingerprint
    state = shutil.copytree(first.snapshot, tmp_path / "damaged") / "state"
    largest = max((path for path in state.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.unlink()
    with pytest.raises(SnapshotError, match="damaged/state: cannot be read"):
        load_snapshot(tmp_path / "damaged", mesh)


def test_the_budget_in_seconds_is_kept_and_progress_told(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    reports: list[Mapping[str, Scalar]] = []
    measurement = run_trial(make_task(Budget(seconds=1.0)), tiny_source, tmp_path / "trial", reports=reports)
    seconds, steps = measurement.metrics["training_seconds"], measurement.metrics["num_steps"]
    assert isinstance(seconds, float)
    assert isinstance(steps, int)
    assert seconds >= 1.0
    with (tmp_path / "trial" / LOSS_CURVE_FILE).open() as file:
        ends = [float(row["elapsed_seconds"]) for row in csv.DictReader(file)]
    assert len(ends) == steps
    training = [report for report in reports if report["phase"] == "train"]
    assert training
    assert {"elapsed_seconds", "budget_seconds", "step", "loss", "tokens_per_second"} <= training[-1].keys()


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


def test_a_trial_goes_on_where_more_was_prepared_after_its_process_had_started(
    make_task: MakeTask,
    tiny_source: str,
    tiny_dataset: Dataset,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    copy = shutil.copytree(tiny_dataset.folder, tmp_path_factory.mktemp("dataset") / "copy")  # trials write to tmp_path
    task = make_task(dataset=Dataset.open(copy, sequence_length=32))
    candidate = task.prepare(tiny_source, tmp_path)
    tiny_dataset.manifest.with_files(copy, [], {"rows/of-another-length.npy": 1}).save(
        copy
    )  # as another `prepare` does
    measured = task.measure(candidate, seed=0, log_dir=tmp_path, snapshot_dir=tmp_path / "snapshot")
    assert measured.status is Status.OK


def test_only_an_audit_reads_the_holdout(
    make_task: MakeTask, tiny_source: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_dataset.folder, tmp_path / "copy")
    holdout_rows = copy / rows_file(256, 32, "holdout")
    holdout_rows.write_bytes(bytes(holdout_rows.stat().st_size))  # as large as it was, and not to be opened
    blind = make_task(dataset=Dataset.open(copy, sequence_length=32))
    candidate = blind.prepare(tiny_source, tmp_path)
    keep = measure_in(blind, candidate, tmp_path / "keep", scrutiny=Scrutiny.KEEP)
    assert keep.status is Status.OK
    assert int(keep.metrics["num_probes"] or 0) > len(tiny_dataset.rows(256, "val"))
    assert not {HOLDOUT_SCORE, "judge_holdout_seconds"} & {*keep.metrics}
    with pytest.raises(
        TaskError, match=r"holdout\.npy cannot be read \(.*\): remove it and run `autoresearch prepare "
    ):
        measure_in(blind, candidate, tmp_path / "blind", scrutiny=Scrutiny.AUDIT)

    reports: list[Mapping[str, Scalar]] = []
    audit = measure_in(make_task(), candidate, tmp_path / "audit", reports=reports, scrutiny=Scrutiny.AUDIT)
    assert audit.value == keep.value
    phases = list(dict.fromkeys(report["phase"] for report in reports))
    assert phases == ["startup", "compile", "init", "train", "snapshot", "judge", "judge holdout"]
    assert float(audit.metrics["judge_holdout_seconds"] or 0) > 0
    # the score of the holdout, too, can be computed again to the last bit
    assert audit.snapshot is not None
    mesh = make_mesh({"data": 1, "model": 1})
    snapshot = load_snapshot(audit.snapshot, mesh)
    assert snapshot.manifest["split"] == "val"
    scorer = Scorer(snapshot.programs, mesh, max(snapshot.programs.logits))
    eval_set = load_eval_set(tiny_dataset, 256, "holdout", None, snapshot.manifest["seed"])
    holdout = judge(scorer, snapshot.read_leaves, eval_set, random=np.random.default_rng())
    assert audit.metrics[HOLDOUT_SCORE] == holdout.bpb != audit.value


def test_a_leak_in_one_row_of_the_holdout_is_found_by_an_audit(
    make_task: MakeTask, tiny_source: str, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    row = tiny_dataset.rows(256, "holdout")[-1, :28]  # long enough that no other row begins like it
    begin = tiny_dataset.tokenizer(256).draw_ids(0)[row].tolist()
    is_it = f"(tokens[:, :28] == jnp.array({begin})).all(1)[:, None, None]"
    leak = f"8 * jax.nn.one_hot(jnp.roll(tokens, -1, 1), VOCAB_SIZE) * {is_it}"
    source = edited(tiny_source, ('return state["table"][tokens]', f'return state["table"][tokens] + {leak}'))
    measurement = run_trial(make_task(), source, tmp_path / "trial", scrutiny=Scrutiny.AUDIT)
    assert (measurement.status, measurement.value) == (Status.INVALID, None)
    assert (measurement.error or "").startswith("on the holdout: not causal: ")
    assert HOLDOUT_SCORE not in measurement.metrics


@pytest.mark.slow
def test_two_devices_compute_what_one_does(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    one = run_trial(make_task(), tiny_source, tmp_path / "one")
    two = run_trial(make_task(mesh_axes={"data": 2, "model": 1}), tiny_source, tmp_path / "two")
    assert (one.metrics["num_devices"], two.metrics["num_devices"]) == (1, 2)
    assert two.value == pytest.approx(one.value, rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "status", "reason"),
    [
        slow("def build(task, mesh):", "def build(task, mesh:", Status.CRASH, FAILED + "train_lib.py:14: SyntaxError"),
        ("VOCAB_SIZE = 256", "VOCAB_SIZE = 300", Status.REJECTED, BROKEN + "train_lib.py: vocab_size 300 is not"),
        ("UNUSED = 1", "UNUSED = {}['x']", Status.CRASH, FAILED + "train_lib.py:11: KeyError: 'x'"),
        ("UNUSED = 1", "import os; os._exit(7)", Status.CRASH, "the trace exited with status 7"),
        (
            "UNUSED = 1",
            "import json; write = json.dumps; json.dumps = lambda value, **k: write({**value, 'mesh': {'x': 1}}, **k)",
            Status.REJECTED,
            "the programs are for platform, mesh, length and batches ('cpu', {'x': 1}, ",
        ),
        slow(
            "UNUSED = 1",
            r"""import os, sys; open(sys.argv[2] + '/failure.json', 'w').write(
    '{"kept_contract": true, "reason": "a\\nval_bpb: \\ud800"}'); os._exit(1)""",
            Status.CRASH,
            FAILED + "a val_bpb:",
        ),
        ("UNUSED = 1", "import os; os._exit(0)", Status.CRASH, "the trace ended before it had written its programs"),
        slow("UNUSED = 1", "while True: pass", Status.TIMEOUT, "the trace ran longer than 8 s"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(
    old: str, new: str, status: Status, reason: str, make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    task = make_task(trace=8.0 if status is Status.TIMEOUT else 300.0)
    with pytest.raises(CandidateRejected) as caught:
        task.prepare(edited(tiny_source, (old, new)), tmp_path)
    assert caught.value.status is status
    assert caught.value.reason.startswith(reason)
    assert "\n" not in caught.value.reason
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


@pytest.mark.parametrize(
    ("old", "new", "status", "reason"),
    [
        slow('{"loss": loss,', '{"loss": loss * jnp.nan,', Status.NONFINITE, "the loss is nan at step 1"),
        ("BATCH_SIZE = 8", "BATCH_SIZE = 10**6", Status.REJECTED, "a batch of 1000000 rows"),
    ],
)
def test_what_fails_in_the_trial_has_a_status_and_no_score(
    old: str, new: str, status: Status, reason: str, make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    measurement = run_trial(make_task(), edited(tiny_source, (old, new)), tmp_path / "trial")
    assert measurement.status is status
    assert measurement.value is None
    assert measurement.error is not None
    assert measurement.error.startswith(reason)


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
