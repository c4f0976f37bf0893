"""Integrity of snapshots and eval bundles: hashes of files, and the copy of what the judge reads.

An eval bundle is a dataset folder without training rows and text, so that a snapshot can be scored when the dataset is
gone. Its manifest keeps their hashes, which the fingerprint is computed from. Importing this loads no JAX.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import partial_folder, sha256_of_file
from autoresearch_jax.tasks.lm.data.dataset import (
    MANIFEST,
    Dataset,
    FileEntry,
    Manifest,
    covered_files,
    is_read_by_judge,
    prepare_command,
)

FORMAT_VERSION = 3  # of a snapshot's manifest
METRICS = "metrics"  # in a snapshot's manifest: what was known of the trial when it was written
SNAPSHOT_SHA256 = "snapshot_sha256"  # among a trial's metrics: of the snapshot's manifest
RESTORE = "restore it from a copy"


class SnapshotError(UserError):
    """The snapshot is missing or damaged; the message names the file."""


class UnfitSnapshotError(UserError):
    """The snapshot is damaged or belongs to another trial; the message names the difference."""


class EvalBundleError(UserError):
    """A run's eval bundle is damaged or cannot be written; the message names the file."""


def take_inventory(folder: Path) -> dict[str, FileEntry]:
    """Every file below a folder but its manifest, by relative name, sorted."""
    return {name: FileEntry.of(folder / name) for name in sorted(_names(folder)) if name != MANIFEST}


def inventory_differences(folder: Path, expected: Mapping[str, FileEntry], todo: str) -> list[str]:
    """A line, ending with `todo`, for each file but the manifest that is missing, changed or was not there."""
    found = set(_names(folder)) - {MANIFEST}
    lines = [f"{folder / name}: is missing: {todo}" for name in sorted(expected.keys() - found)]
    lines += [f"{folder / name}: was not there when it was written: {todo}" for name in sorted(found - expected.keys())]
    for name in sorted(found & expected.keys()):
        path, entry = folder / name, expected[name]
        if path.is_symlink() or path.stat().st_size != entry.size or sha256_of_file(path) != entry.sha256:
            lines.append(f"{path}: has been changed: {todo}")
    return lines


def file_differences(path: Path, sha256: str, todo: str) -> list[str]:
    """A line if a file is missing or does not hash to `sha256`."""
    if not path.is_file():
        return [f"{path}: is missing: {todo}"]
    return [] if sha256_of_file(path) == sha256 else [f"{path}: has been changed: {todo}"]


def _names(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]  # which os.walk does not enter
        for name in (*files, *links):
            yield (Path(parent) / name).relative_to(folder).as_posix()


def load_manifest(folder: Path) -> dict[str, Any]:
    """The snapshot's manifest; raises SnapshotError if there is none, or it is damaged or of another format."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and "format_version" not in manifest:
            raise SnapshotError(f"{folder}: a snapshot of another task: only those of the language model are read here")
        version = int(manifest["format_version"])
        if version == FORMAT_VERSION and not manifest.keys() >= {"platform", "mesh", "files"}:
            raise ValueError("it lacks platform, mesh or files")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SnapshotError(
            f"{folder}: no snapshot here; `autoresearch results --format=json` names a run's"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SnapshotError(f"{path}: damaged: {type(error).__name__}: {error}: {RESTORE}") from error
    if version != FORMAT_VERSION:
        raise SnapshotError(f"{folder}: format {version}, this version reads {FORMAT_VERSION}")
    return manifest


def snapshot_differences(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """A line for each file of a snapshot that its manifest lists otherwise; raises SnapshotError for a damaged list."""
    return inventory_differences(folder, listed_files(folder, manifest), RESTORE)


def snapshot_damage(folder: Path, sha256: str | None) -> list[str]:
    """A line for each file of a snapshot that was changed; `sha256` is of its manifest, None where it is not known."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return [f"{manifest}: is missing: {RESTORE}"]
    if sha256 is not None and (found := file_differences(manifest, sha256, RESTORE)):
        return found
    try:
        return snapshot_differences(folder, load_manifest(folder))
    except SnapshotError as error:
        return [str(error)]


def listed_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, FileEntry]:
    try:
        return {str(name): FileEntry(**entry) for name, entry in manifest["files"].items()}
    except (TypeError, AttributeError) as error:
        raise SnapshotError(f"{folder / MANIFEST}: damaged: the list of files: {error}: {RESTORE}") from error


def keep_eval_bundle(dataset: Dataset, split: str, folder: Path) -> str:
    """Copies what judging a split reads into `folder`, whole or not at all, unless it exists.

    Returns:
      SHA-256 of the bundle's manifest, which has the hashes of all other files.

    Raises:
      EvalBundleError: it or the dataset was changed, or it cannot be written.
    """
    if not folder.exists():
        try:
            _copy(dataset, split, folder)
        except OSError as error:
            raise EvalBundleError(f"{folder}: the eval bundle cannot be written: {error}") from error
    command = prepare_command(dataset.folder, dataset.manifest.corpus, dataset.sequence_length, dataset.vocab_sizes)
    todo = f"delete {folder}, run `{command}`, and the same command copies it again"
    if differences := eval_bundle_differences(folder, split, todo):
        raise EvalBundleError(differences[0])
    return sha256_of_file(folder / MANIFEST)


def eval_bundle_differences(folder: Path, split: str, todo: str = RESTORE) -> list[str]:
    """A line for each file of an eval bundle that differs from its manifest, whose own hash must be compared before.

    Raises:
      DatasetError: the manifest cannot be read.
    """
    manifest = Manifest.load(folder)
    if manifest is None:
        return [f"{folder / MANIFEST}: is missing: {todo}"]
    expected = {name: entry for name, entry in manifest.files.items() if is_read_by_judge(name, split)}
    return inventory_differences(folder, expected, todo)


def _copy(dataset: Dataset, split: str, folder: Path) -> None:
    partial = partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    covered = covered_files(dataset.vocab_sizes, dataset.sequence_length)
    manifest = replace(
        dataset.manifest,
        files={name: dataset.manifest.files[name] for name in covered},
        rows={name: count for name, count in dataset.manifest.rows.items() if name in covered},
    )
    for name in filter(lambda name: is_read_by_judge(name, split), covered):
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.folder / name, partial / name)
    manifest.save(partial)
    os.rename(partial, folder)
