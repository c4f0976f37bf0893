"""The process that runs a snapshot's programs for a command, confined as that of a trial; verification of a snapshot.

To verify a snapshot, its files are compared with what was recorded of them, and it is scored again. Loads no JAX.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.sandbox.process import JsonWorker, ProcessTimeoutError, WorkerDiedError
from autoresearch_jax.sandbox.sandbox import scratch_folder
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.tasks.lm import cage
from autoresearch_jax.tasks.lm.config import SCORE_SNAPSHOT, SNAPSHOT_BEGINS, SPLIT
from autoresearch_jax.tasks.lm.data.dataset import (
    MANIFEST,
    Dataset,
    DatasetError,
    Manifest,
    files_for,
    is_read_by_judge,
)
from autoresearch_jax.tasks.lm.device import start_worker
from autoresearch_jax.tasks.lm.integrity import (
    RESTORE,
    SnapshotError,
    eval_bundle_differences,
    file_differences,
    inventory_differences,
    listed_files,
    load_manifest,
)
from autoresearch_jax.tasks.lm.trial import naming_variables
from autoresearch_jax.types import CandidateUntouched

PREPARE = "run `autoresearch prepare` again"
TOLERANCE = 1e-4  # relative, of a score computed with another JAX or on another device
STARTUP_SECONDS = 120.0
ANSWER_SECONDS = 24 * 3600.0  # a person who waits ends it sooner
BEFORE = "the process that runs the snapshot's programs"
LOG_FOLDER = "autoresearch-log-"  # what the names of the folders of their logs begin with


@dataclass(frozen=True)
class RecordedTrial:
    """The ledger's record of the trial that a snapshot is of."""

    value: float  # its score
    seed: int
    program_hash: str | None  # None for a trial by hand
    fingerprint: str | None
    snapshot_sha256: str | None  # of the snapshot's manifest
    judge_batch_rows: int | None  # None where it is not known
    bundle_sha256: str | None  # of the eval bundle's manifest; None for a trial by hand


@dataclass
class Verification:
    """The result of verifying a snapshot."""

    checks: dict[str, list[str] | str] = field(default_factory=dict)  # by name: differences, or why it was not checked
    notes: dict[str, str] = field(default_factory=dict)  # by name of the check, what limits it
    value: float | None = None  # the score, computed again

    @property
    def differs(self) -> bool:
        """True if anything was found so far."""
        return any(isinstance(found, list) and found for found in self.checks.values())


def verify_snapshot(
    folder: Path,
    bundle: Path,
    programs_dir: Path | None,
    recorded: RecordedTrial,
    *,
    environment: Mapping[str, str],
    confined: bool,
) -> Verification:
    """Compares a snapshot and the eval bundle with what was recorded of them, then scores the one with the other.

    Hashes are compared before anything is deserialised.

    Args:
      folder: of the snapshot.
      bundle: of the run; if there is none, the dataset that the snapshot's manifest names takes its place.
      programs_dir: where the run keeps the same programs; None if it does not.
      recorded: what the ledger has.
      environment: variables of this process.
      confined: whether the process that scores it is confined.
    """
    result = Verification()
    sha256 = recorded.snapshot_sha256
    found = [] if sha256 is None else file_differences(folder / MANIFEST, sha256, RESTORE)
    result.checks["snapshot_manifest"] = "the ledger has no hash of it" if sha256 is None else found
    try:
        if not result.differs:
            manifest = load_manifest(folder)
            _check_files(folder, manifest, programs_dir, recorded, result)
            dataset = _check_bundle(bundle, manifest, recorded, result)
        if result.differs:
            result.checks["score"] = "not computed: what it would be computed from differs"
        else:
            assert dataset is not None
            answer = ask_about_snapshot(
                SCORE_SNAPSHOT,
                folder,
                _score_request(dataset, recorded),
                environment=environment,
                confined=confined,
                readable=cage.FileAccess.of_trials(
                    dataset.folder.absolute(), dataset.sequence_length, [SPLIT]
                ).readable,
            )
            _check_score(answer, folder, manifest, recorded, result)
    except (SnapshotError, DatasetError) as error:
        first_line = next(iter(str(error).splitlines()), "")
        result.checks["score"] = [_without_score(folder, first_line)]
    return result


def _check_files(
    folder: Path, manifest: Mapping[str, Any], programs_dir: Path | None, recorded: RecordedTrial, result: Verification
) -> None:
    files = listed_files(folder, manifest)
    result.checks["snapshot_files"] = inventory_differences(folder, files, RESTORE)
    claims = {"seed": recorded.seed, "program_hash": recorded.program_hash, "fingerprint": recorded.fingerprint}
    result.checks["snapshot_facts"] = [
        f"{folder / MANIFEST}: {name} {manifest.get(name)}, in the ledger {value}: it belongs to another trial"
        for name, value in claims.items()
        if value is not None and manifest.get(name) != value
    ]
    if programs_dir is not None:
        prefix = "programs/"
        programs = {name.removeprefix(prefix): entry for name, entry in files.items() if name.startswith(prefix)}
        todo = f"the snapshot has its own, {folder / prefix}"
        result.checks["programs_kept"] = inventory_differences(programs_dir, programs, todo)


def _check_bundle(
    bundle: Path, manifest: Mapping[str, Any], recorded: RecordedTrial, result: Verification
) -> Dataset | None:
    """The dataset to judge on; None if it was changed."""
    sequence_length, vocab_size = int(manifest["sequence_length"]), int(manifest["vocab_size"])
    if recorded.bundle_sha256 is not None:
        place, offered = bundle, None  # it has the vocabularies that were offered and no others
        found = file_differences(place / MANIFEST, recorded.bundle_sha256, RESTORE)
        found = found or eval_bundle_differences(place, SPLIT)
    else:
        place, offered = Path(manifest["dataset"]), tuple(manifest["vocab_sizes"])
        found = _dataset_differences(place, sequence_length, vocab_size)
        result.notes["eval_bundle"] = f"the run has no eval bundle, read from {place}"
    result.checks["eval_bundle"] = found
    if found:
        return None
    dataset = Dataset.open(place, sequence_length=sequence_length, vocab_sizes=offered, only_split=SPLIT)
    # a run that judges a part of the split has the number of tokens at the end of its fingerprint
    then = (recorded.fingerprint or "").partition("-")[0]
    same = dataset.fingerprint == then
    result.checks["fingerprint"] = [] if same else [f"{place}: {dataset.fingerprint}, in the ledger {then}"]
    return dataset


def _dataset_differences(folder: Path, sequence_length: int, vocab_size: int) -> list[str]:
    """As `eval_bundle_differences`, for a whole dataset."""
    manifest = Manifest.load(folder)
    if manifest is None:
        return [f"{folder}: the dataset is gone, and there is no eval bundle in its place: {PREPARE}"]
    names = [name for name in files_for(vocab_size, sequence_length) if is_read_by_judge(name, SPLIT)]
    if not manifest.files.keys() >= set(names):
        return [f"{folder}: has no vocabulary of {vocab_size} for rows of {sequence_length} any more: {PREPARE}"]
    return [line for name in names for line in file_differences(folder / name, manifest.files[name].sha256, PREPARE)]


def _score_request(dataset: Dataset, recorded: RecordedTrial) -> dict[str, Any]:
    """Arguments of `judging.score_snapshot` but for the snapshot."""
    arguments = {
        "folder": str(dataset.folder.absolute()),
        "sequence_length": dataset.sequence_length,
        "vocab_sizes": dataset.vocab_sizes,
        "only_split": SPLIT,
    }
    return {"dataset": arguments, "batch_rows": recorded.judge_batch_rows}


def _check_score(
    answer: Mapping[str, Any], folder: Path, manifest: Mapping[str, Any], recorded: RecordedTrial, result: Verification
) -> None:
    """Compares what `judging.score_snapshot` returned with what was recorded."""
    program_hash, then = answer["program_hash"], recorded.program_hash
    now, made = answer["made_with"], manifest.get("made_with")
    then = manifest["program_hash"] if then is None else then
    same = then == program_hash
    if not same and (made or {}).get("jax") != now["jax"]:
        result.checks["program_hash"] = "another JAX, or an older autoresearch, writes the same program differently"
    else:
        result.checks["program_hash"] = [] if same else [f"{folder / 'programs'}: {program_hash}, recorded {then}"]
    if "failed" in answer:
        result.checks["score"] = [_without_score(folder, answer["failed"])]
        return
    if "invalid" in answer:
        result.checks["probes"] = [f"{folder}: {answer['invalid']}: the score is no honest one"]
        return
    result.checks["probes"] = []
    value = result.value = float(answer["value"])
    difference = abs(value - recorded.value)
    if made == now:
        agrees, bound = difference == 0, "to the last digit"
    else:
        agrees, bound = difference <= TOLERANCE * recorded.value, f"within {TOLERANCE:g} of it"
        other = f"{_shown(made)} then" if made else "it is not known what it was made with"
        result.notes["score"] = f"compared {bound}: {other}, {_shown(now)} now"
    result.checks["score"] = (
        [] if agrees else [f"{folder}: scores {value!r}, in the ledger {recorded.value!r}, not equal {bound}"]
    )


def _without_score(folder: Path, reason: str) -> str:
    return f"{folder}: the score cannot be computed: {reason}"


def _shown(made: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in made.items())


def ask_about_snapshot(
    operation: str,
    folder: Path,
    request: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    confined: bool,
    readable: Iterable[Path] = (),
) -> dict[str, Any]:
    """The answer of a new process to a request about a snapshot; if it fails, the end of its log goes to stderr.

    Args:
      operation: `config.SCORE_SNAPSHOT` or `config.SAMPLE`.
      folder: of the snapshot.
      request: what else the request holds.
      environment: variables of this process, of which it inherits an allow-listed part.
      confined: whether it can touch nothing of the user's but the snapshot and `readable`.
      readable: see `confined`; absolute paths.

    Raises:
      SnapshotError: the snapshot is missing or damaged, was made for other devices than are here, or the process
        failed.
      CandidateUntouched: the process failed before it had read anything of the snapshot.
    """
    manifest = load_manifest(folder)
    place = folder.absolute()
    if confined:
        cage.write_bytecode(environment)
    with scratch_folder(LOG_FOLDER) as log_folder:
        log_path = log_folder / "worker.log"
        worker = start_worker(
            manifest["platform"],
            math.prod(manifest["mesh"].values()),
            log_path,
            environment=environment,
            compile_cache_dir=None,
            reach=cage.FileAccess((place, *readable)) if confined else None,
        )
        try:
            with naming_variables(environment):
                _begin(worker, {"op": operation, "snapshot_dir": str(place), **request})
            answer = worker.receive(ANSWER_SECONDS)
        except (ProcessTimeoutError, WorkerDiedError) as error:
            answer = {"event": "failed", "reason": str(error)}
        finally:
            worker.close()
        if answer["event"] == "result":
            return answer
        reason = answer["reason"].replace(str(place), str(folder))
        if answer["event"] == "unusable":
            raise SnapshotError(reason)
        print(clean_block(log_path.read_text(errors="replace")), file=sys.stderr, flush=True)
        raise SnapshotError(f"{folder}: its programs cannot be run: {reason}")


def _begin(worker: JsonWorker, request: Mapping[str, Any]) -> None:
    """Sends the request, and waits until the process is about to read the snapshot; else raises CandidateUntouched."""
    try:
        worker.receive(STARTUP_SECONDS)  # "ready"
        worker.send(request)
        event = worker.receive(STARTUP_SECONDS)
    except (ProcessTimeoutError, WorkerDiedError) as error:
        words = worker.last_words()
        raise CandidateUntouched(f"{BEFORE}: {error}{words and f': {words}'}") from error
    if event["event"] != SNAPSHOT_BEGINS:
        raise CandidateUntouched(f"{BEFORE}: {clean_line(event['reason'])}")
