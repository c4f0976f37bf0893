"""A snapshot: what `logits` reads, saved with Orbax, with the programs and all it takes to score it years later."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from autoresearch_jax.errors import UserError
from autoresearch_jax.files import partial_folder, sha256_of_file, write_json
from autoresearch_jax.sandbox.faults import FaultPoint, reach
from autoresearch_jax.tasks.lm.data.manifest import MANIFEST, FileEntry
from autoresearch_jax.tasks.lm.disk_faults import disk_error_of_storage
from autoresearch_jax.tasks.lm.hardware import host_processors
from autoresearch_jax.tasks.lm.inventory import RESTORE, inventory_differences, take_inventory
from autoresearch_jax.tasks.lm.programs import ProgramError, Programs, load_programs

FORMAT_VERSION = 2  # the first one listed no files
METRICS = "metrics"  # in the manifest: what was known of the trial when it was written


class SnapshotError(UserError):
    """The snapshot is missing or damaged; the message names the file."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot read back.

    Attributes:
      programs: as they were traced.
      read_leaves: the arrays that `logits` reads, on the devices of the mesh it was loaded for.
      manifest: facts about its making: dataset, fingerprint, seed, steps.
      tokenizer_path: the tokenizer's own file.
    """

    programs: Programs
    read_leaves: list[jax.Array]
    manifest: Mapping[str, Any]
    tokenizer_path: Path


def save_snapshot(
    folder: Path,
    *,
    programs: Programs,
    programs_dir: Path,
    leaves: Sequence[jax.Array],
    tokenizer_path: Path,
    facts: Mapping[str, Any],
) -> str:
    """Writes a snapshot under a temporary name and renames it, so that `folder` holds a whole one or none.

    Args:
      folder: where it will be; must not exist.
      programs: the candidate's programs.
      programs_dir: their files, which are copied.
      leaves: all arrays of the state; only those that `logits` reads are saved.
      tokenizer_path: copied too.
      facts: goes into the manifest.

    Returns:
      SHA-256 of the manifest, which has the hashes of all other files.

    Raises:
      OSError: the disk is full, or fails.
    """
    partial = partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copytree(programs_dir, partial / "programs")
    shutil.copyfile(tokenizer_path, partial / "tokenizer.json")
    if arrays := {_leaf_key(i): leaves[i] for i in programs.read_leaves if leaves[i].size}:  # Orbax saves no empty ones
        _save_arrays(partial / "state", arrays)
    manifest = {
        "format_version": FORMAT_VERSION,
        "program_hash": programs.program_hash,
        "platform": programs.platform,
        "mesh": programs.mesh_axes,
        "vocab_size": programs.vocab_size,
        "sequence_length": programs.sequence_length,
        "leaves": {_leaf_key(i): programs.leaf_names[i] for i in programs.read_leaves},
        "made_with": made_with(),
        **facts,
        "files": {name: asdict(entry) for name, entry in take_inventory(partial).items()},
    }
    write_json(partial / MANIFEST, manifest)
    reach(FaultPoint.BEFORE_SNAPSHOT_RENAME)
    os.rename(partial, folder)
    reach(FaultPoint.AFTER_SNAPSHOT_RENAME)
    return sha256_of_file(folder / MANIFEST)


def _save_arrays(path: Path, arrays: Mapping[str, jax.Array]) -> None:
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), arrays)
    except jax.errors.JaxRuntimeError:
        raise
    except Exception as error:  # Orbax tells of a full disk with a ValueError
        fault = disk_error_of_storage(error, path)
        if fault is None or fault is error:
            raise
        raise fault from error


def made_with() -> dict[str, str]:
    """What the last digits of a number may hang on: the version of JAX, the device, on a CPU the processors."""
    device = jax.devices()[0]
    machine = {"jax": jax.__version__, "device_kind": device.device_kind}
    return machine | ({"processors": host_processors()} if device.platform == "cpu" else {})


def snapshot_differences(folder: Path, manifest: Mapping[str, Any]) -> list[str] | None:
    """A line for each file of a snapshot that is missing, changed or does not belong there; nothing is deserialised.

    Args:
      folder: of the snapshot.
      manifest: from `load_manifest`; None is returned for one of format 1, which lists no files.

    Raises:
      SnapshotError: the list is damaged.
    """
    if manifest["format_version"] < 2:
        return None
    try:
        files = {str(name): FileEntry(**entry) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{folder / MANIFEST}: damaged: the list of files: {error}") from error
    return inventory_differences(folder, files, RESTORE)


def load_manifest(folder: Path) -> dict[str, Any]:
    """The snapshot's manifest.

    Raises:
      SnapshotError: there is none, or it is damaged or of a newer format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        version = int(manifest["format_version"])
        if version <= FORMAT_VERSION and not manifest.keys() >= {"platform", "mesh"}:
            raise ValueError("it tells no platform or no mesh")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SnapshotError(
            f"{folder}: no snapshot here; `autoresearch results --format=json` names a run's"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{folder / MANIFEST}: damaged: {type(error).__name__}: {error}") from error
    if not 1 <= version <= FORMAT_VERSION:
        raise SnapshotError(f"{folder}: format {version}, this version reads 1 to {FORMAT_VERSION}")
    return manifest


def load_snapshot(folder: Path, mesh: Mesh) -> Snapshot:
    """Reads a snapshot onto the devices of `mesh`.

    Raises:
      SnapshotError: it is missing or damaged.
    """
    manifest = load_manifest(folder)
    try:
        programs = load_programs(folder / "programs")
    except ProgramError as error:
        raise SnapshotError(f"{folder / 'programs'}: {error}") from error
    shardings = programs.init.out_shardings_jax(mesh)
    avals = programs.init.out_avals
    structs = {
        i: jax.ShapeDtypeStruct(avals[i].shape, avals[i].dtype, sharding=shardings[i]) for i in programs.read_leaves
    }
    saved = {_leaf_key(i): struct for i, struct in structs.items() if struct.size}
    arrays = {_leaf_key(i): jnp.zeros_like(struct) for i, struct in structs.items() if not struct.size}
    try:
        if saved:
            with ocp.StandardCheckpointer() as checkpointer:
                arrays |= checkpointer.restore((folder / "state").absolute(), saved)
    except Exception as error:  # Orbax raises a bare Exception for a damaged array, among others
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise SnapshotError(f"{folder / 'state'}: cannot be read: {first_line}") from error
    return Snapshot(programs, [arrays[_leaf_key(i)] for i in programs.read_leaves], manifest, folder / "tokenizer.json")


def _leaf_key(index: int) -> str:
    return f"leaf_{index:04d}"
