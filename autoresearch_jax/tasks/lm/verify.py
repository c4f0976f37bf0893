"""A snapshot, scored again from a run's folder alone: hashes first, then programs and arrays, then the judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from autoresearch_jax.tasks.lm.data.dataset import Dataset, DatasetError
from autoresearch_jax.tasks.lm.data.manifest import MANIFEST, FileEntry, Manifest, files_for, is_read_by_judge
from autoresearch_jax.tasks.lm.exam import exam_differences
from autoresearch_jax.tasks.lm.inventory import RESTORE, file_differences, inventory_differences
from autoresearch_jax.tasks.lm.judge import Scorer, judge_within_memory, make_exam
from autoresearch_jax.tasks.lm.probes import EVERY_ROW, InvalidCandidateError
from autoresearch_jax.tasks.lm.sample import snapshot_mesh
from autoresearch_jax.tasks.lm.snapshot import (
    SnapshotError,
    load_manifest,
    load_snapshot,
    made_with,
    snapshot_differences,
)

TOLERANCE = 1e-4  # relative, of a score computed with another JAX or on another device: they add in another order
SPLIT = "val"  # what a run is judged on
PREPARE = "run `autoresearch prepare` again"


@dataclass(frozen=True)
class Recorded:
    """What the ledger says of the trial that a snapshot is of.

    Attributes:
      value: its score.
      seed: its seed.
      program_hash: of its experiment; None for a trial by hand.
      fingerprint: of the run, or of the trial if it was made by hand.
      snapshot_sha256: of the snapshot's manifest; None for a trial of before there were such.
      judge_batch_rows: rows of the batches that it was judged with; None where it is not known.
      exam_sha256: of the exam's manifest; None for a run of before there were exams, and for a trial by hand.
    """

    value: float
    seed: int
    program_hash: str | None
    fingerprint: str | None
    snapshot_sha256: str | None
    judge_batch_rows: int | None
    exam_sha256: str | None


@dataclass
class Findings:
    """What came of verifying a snapshot.

    Attributes:
      checks: by name, the differences that were found, a line each; or a string that says why it was not checked.
      notes: by name of the check, what limits it.
      value: the score, computed again; None if it could not be.
    """

    checks: dict[str, list[str] | str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    value: float | None = None

    @property
    def differs(self) -> bool:
        """True if anything was found so far."""
        return any(isinstance(found, list) and found for found in self.checks.values())


def verify_snapshot(folder: Path, exam_folder: Path, programs_dir: Path | None, recorded: Recorded) -> Findings:
    """Compares a snapshot and the exam with what was recorded of them, then scores the one with the other.

    Nothing is deserialised before its hash was found right.

    Args:
      folder: of the snapshot.
      exam_folder: of the run; if there is none, the dataset that the snapshot's manifest names takes its place.
      programs_dir: where the run keeps the same programs; None if it does not.
      recorded: what the ledger has.
    """
    findings = Findings()
    sha256 = recorded.snapshot_sha256
    found = [] if sha256 is None else file_differences(folder / MANIFEST, sha256, RESTORE)
    findings.checks["snapshot_manifest"] = "the ledger has no hash of it" if sha256 is None else found
    try:
        if not findings.differs:
            manifest = load_manifest(folder)
            _check_files(folder, manifest, programs_dir, recorded, findings)
            dataset = _check_exam(exam_folder, manifest, recorded, findings)
        if findings.differs:
            findings.checks["score"] = "not computed: what it would be computed from differs"
        else:
            assert dataset is not None
            _score(folder, manifest, dataset, recorded, findings)
    except (SnapshotError, DatasetError, jax.errors.JaxRuntimeError) as error:
        first_line = next(iter(str(error).splitlines()), "")
        findings.checks["score"] = [f"{folder}: the score cannot be computed: {first_line}"]
    return findings


def _check_files(
    folder: Path, manifest: Mapping[str, Any], programs_dir: Path | None, recorded: Recorded, findings: Findings
) -> None:
    listed = snapshot_differences(folder, manifest)
    findings.checks["snapshot_files"] = "format 1 lists no hashes" if listed is None else listed
    claims = {"seed": recorded.seed, "program_hash": recorded.program_hash, "fingerprint": recorded.fingerprint}
    findings.checks["snapshot_facts"] = [
        f"{folder / MANIFEST}: {name} {manifest.get(name)}, in the ledger {value}: it belongs to another trial"
        for name, value in claims.items()
        if value is not None and manifest.get(name) != value
    ]
    if programs_dir is not None and listed is not None:
        prefix = "programs/"
        entries = {
            name.removeprefix(prefix): FileEntry(**entry)
            for name, entry in manifest["files"].items()
            if name.startswith(prefix)
        }
        todo = f"the snapshot has its own, {folder / prefix}"
        findings.checks["programs_kept"] = inventory_differences(programs_dir, entries, todo)


def _check_exam(
    exam_folder: Path, manifest: Mapping[str, Any], recorded: Recorded, findings: Findings
) -> Dataset | None:
    """The exam, or None if it is not what it was; its files are only opened once they were found right."""
    place = exam_folder
    if recorded.exam_sha256 is not None:
        found = file_differences(place / MANIFEST, recorded.exam_sha256, RESTORE)
        found = found or exam_differences(place, SPLIT)
    else:
        place = Path(manifest["dataset"])
        found = _dataset_differences(place, int(manifest["sequence_length"]), int(manifest["vocab_size"]))
        findings.notes["exam_files"] = f"the run has no exam, read from {place}"
    findings.checks["exam_files"] = found
    if found:
        return None
    # an exam has the vocabularies that were offered and no others
    offered = None if recorded.exam_sha256 is not None else manifest.get("vocab_sizes", [])
    if offered == []:
        findings.checks["fingerprint"] = "the snapshot does not say which vocabularies were offered"
        offered = [manifest["vocab_size"]]
    dataset = Dataset.open(
        place,
        sequence_length=int(manifest["sequence_length"]),
        vocab_sizes=None if offered is None else tuple(offered),
        only_split=SPLIT,
    )
    if "fingerprint" not in findings.checks:
        # of a run that judges a part of the split it ends with the number of tokens
        then = (recorded.fingerprint or "").partition("-")[0]
        same = dataset.fingerprint == then
        findings.checks["fingerprint"] = [] if same else [f"{place}: {dataset.fingerprint}, in the ledger {then}"]
    return dataset


def _dataset_differences(folder: Path, sequence_length: int, vocab_size: int) -> list[str]:
    """As `exam_differences`, of a whole dataset, which may hold more than was judged."""
    manifest = Manifest.load(folder)
    if manifest is None:
        return [f"{folder}: the dataset is gone, and there is no exam in its place: {PREPARE}"]
    names = [name for name in files_for(vocab_size, sequence_length) if is_read_by_judge(name, SPLIT)]
    if not manifest.files.keys() >= set(names):
        return [f"{folder}: has no vocabulary of {vocab_size} for rows of {sequence_length} any more: {PREPARE}"]
    return [line for name in names for line in file_differences(folder / name, manifest.files[name].sha256, PREPARE)]


def _score(folder: Path, manifest: Mapping[str, Any], dataset: Dataset, recorded: Recorded, findings: Findings) -> None:
    """Loads the snapshot for the devices it was made for, judges it, probes and all."""
    mesh = snapshot_mesh(folder, manifest)
    snapshot = load_snapshot(folder, mesh)
    programs = snapshot.programs
    now, made = made_with(), manifest.get("made_with")
    program_hash, then = programs.program_hash, recorded.program_hash
    then = manifest["program_hash"] if then is None else then  # of a trial by hand the ledger has none
    same = then == program_hash
    if not same and (made or {}).get("jax") != now["jax"]:
        findings.checks["program_hash"] = "another JAX, or an older autoresearch, writes the same program differently"
    else:
        findings.checks["program_hash"] = [] if same else [f"{folder / 'programs'}: {program_hash}, recorded {then}"]
    rows = recorded.judge_batch_rows
    scorer = Scorer(programs, mesh, rows if rows in programs.logits else max(programs.logits))
    exam = make_exam(dataset, programs.vocab_size, SPLIT, manifest.get("judge_tokens"))
    try:
        verdict = judge_within_memory(programs, mesh, scorer, snapshot.read_leaves, exam, probe_share=EVERY_ROW)
    except InvalidCandidateError as error:
        findings.checks["probes"] = [f"{folder}: {error}: the score is no honest one"]
        return
    findings.checks["probes"] = []
    findings.value = verdict.bpb
    difference = abs(verdict.bpb - recorded.value)
    if made == now:
        agrees, bound = difference == 0, "to the last digit"
    else:
        agrees, bound = difference <= TOLERANCE * recorded.value, f"within {TOLERANCE:g} of it"
        other = f"{_shown(made)} then" if made else "it is not known what it was made with"
        findings.notes["score"] = f"compared {bound}: {other}, {_shown(now)} now"
    findings.checks["score"] = (
        [] if agrees else [f"{folder}: scores {verdict.bpb!r}, in the ledger {recorded.value!r}, not equal {bound}"]
    )


def _shown(made: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in made.items())
