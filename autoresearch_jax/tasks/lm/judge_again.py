"""A trial whose judging was cut short, judged from its snapshot as if nothing had happened; nothing is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.manifest import MANIFEST
from autoresearch_jax.tasks.lm.judge import Verdict
from autoresearch_jax.tasks.lm.judging import Judging, Trained, open_trial
from autoresearch_jax.tasks.lm.measure import make_mesh
from autoresearch_jax.tasks.lm.messages import SNAPSHOT, MeasureRequest
from autoresearch_jax.tasks.lm.phases import Emit, Phases, compiling
from autoresearch_jax.tasks.lm.snapshot import (
    METRICS,
    SnapshotError,
    load_manifest,
    load_snapshot,
    made_with,
    snapshot_differences,
)


class UnfitSnapshotError(Exception):
    """The snapshot is damaged, or is none of this trial; the message says how that shows."""


def judge_again(request: MeasureRequest, emit: Emit) -> dict[str, Any]:
    """Judges the snapshot that is where the request says.

    Score and metrics are those of a trial that was not cut short, but that the times of judging are those of this one,
    and "snapshot_seconds" is None: nobody knows any more.

    Args:
      request: the trial's.
      emit: told of each phase's beginning, and of progress in it.

    Returns:
      What `measure` returns.

    Raises:
      UnfitSnapshotError: the snapshot cannot be judged as this trial's.
    """
    phases = Phases(emit)
    return phases.answer(lambda: _run(request, phases))


def _run(request: MeasureRequest, phases: Phases) -> Verdict:
    phases.enter("startup")
    programs, dataset = open_trial(request)
    mesh = make_mesh(programs.mesh_axes)
    judging = Judging(request, programs, mesh, dataset)
    phases.enter(SNAPSHOT)
    trained = _load(request, mesh, phases)
    phases.enter("compile")
    with compiling():
        scorer = judging.compile()
    return judging.judge(judging.fitting(scorer), trained, phases)


def _load(request: MeasureRequest, mesh: Mesh, phases: Phases) -> Trained:
    """What was trained, and what was known of it then; nothing is deserialised before its hash was found right."""
    folder = Path(request.snapshot_dir)
    try:
        manifest = load_manifest(folder)
        differences = _other_facts(request, manifest) or snapshot_differences(folder, manifest)
        if differences or differences is None:
            raise UnfitSnapshotError(f"{folder}: {differences[0] if differences else 'it lists no files'}")
        read_leaves = load_snapshot(folder, mesh).read_leaves
    except SnapshotError as error:
        raise UnfitSnapshotError(str(error)) from error
    metrics = manifest[METRICS]
    phases.snapshot = request.snapshot_dir
    phases.metrics.update(metrics, snapshot_sha256=sha256_of_file(folder / MANIFEST), snapshot_seconds=None)
    return Trained(read_leaves, metrics["wall_seconds"], metrics["num_tokens"])


def _other_facts(request: MeasureRequest, manifest: Mapping[str, Any]) -> list[str]:
    """A line for each fact of a manifest that is not as this trial would have written it."""
    facts = {
        "program_hash": request.program_hash,
        "seed": request.seed,
        "split": request.split,
        "judge_tokens": request.judge_tokens,
        "made_with": made_with(),
        **request.facts,
    }
    found = [
        f"{name} {manifest.get(name)}, of this trial {value}: it is of another trial"
        for name, value in facts.items()
        if manifest.get(name) != value
    ]
    return found if METRICS in manifest else [*found, "it does not tell what was measured before it was written"]
