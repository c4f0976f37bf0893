"""A snapshot: what `logits` reads, saved with Orbax, with the programs; and text sampled from it."""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from autoresearch_jax.files import disk_error_of_storage, partial_folder, sha256_of_file, write_json
from autoresearch_jax.sandbox.accounting import host_processors
from autoresearch_jax.tasks.lm.config import SampleSettings
from autoresearch_jax.tasks.lm.data.dataset import MANIFEST
from autoresearch_jax.tasks.lm.integrity import FORMAT_VERSION, SnapshotError, load_manifest, take_inventory
from autoresearch_jax.tasks.lm.programs import BadProgramError, Programs, load_programs, make_mesh

# Where a mesh has several hosts, the first one has collected the arrays: the hosts may have no disk in common
ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


@dataclass(frozen=True)
class Snapshot:
    """A snapshot read back."""

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
    """Writes a snapshot under a temporary name and renames it to `folder`, which must not exist.

    Args:
      folder: where it will be.
      programs: the candidate's programs.
      programs_dir: their files, which are copied.
      leaves: all arrays of the state; only those that `logits` reads are saved, by this process alone.
      tokenizer_path: copied too.
      facts: further entries of the manifest.

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
    os.rename(partial, folder)
    return sha256_of_file(folder / MANIFEST)


def _save_arrays(path: Path, arrays: Mapping[str, jax.Array]) -> None:
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=ALONE) as checkpointer:
            checkpointer.save(path.absolute(), arrays)
    except jax.errors.JaxRuntimeError:
        raise
    except Exception as error:  # Orbax raises a ValueError for a full disk
        fault = disk_error_of_storage(error, path)
        if fault is None or fault is error:
            raise
        raise fault from error


def made_with() -> dict[str, str]:
    """What the last digits of a score depend on."""
    device = jax.devices()[0]
    machine = {"jax": jax.__version__, "device_kind": device.device_kind}
    return machine | ({"processors": host_processors()} if device.platform == "cpu" else {})


def load_snapshot(folder: Path, mesh: Mesh) -> Snapshot:
    """Reads a snapshot onto the devices of `mesh`; raises SnapshotError if it is missing or damaged."""
    manifest = load_manifest(folder)
    try:
        programs = load_programs(folder / "programs")
    except BadProgramError as error:
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


def sample(snapshot_dir: Path, settings: SampleSettings) -> str:
    """The prompt and its continuation by the model, up to the end of the document.

    Each token costs a forward pass over the last `sequence_length` tokens: the program keeps no cache.

    Raises:
      SnapshotError: the snapshot is missing or damaged, or was made for other devices than are here.
    """
    from autoresearch_jax.tasks.lm.data.tokenizer import Tokenizer

    snapshot = load_snapshot(snapshot_dir, snapshot_mesh(snapshot_dir, load_manifest(snapshot_dir)))
    try:
        tokenizer = Tokenizer.load(snapshot.tokenizer_path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SnapshotError(f"{snapshot.tokenizer_path}: damaged: {type(error).__name__}: {error}") from error
    token_ids_V = tokenizer.draw_ids(int(snapshot.manifest["seed"]))
    predict = _compile_predict(snapshot.programs)
    random = np.random.default_rng(settings.seed)
    tokens = [tokenizer.bos_id, *map(int, tokenizer.encode(settings.prompt))]
    for _ in range(settings.num_tokens):
        context = tokens[-snapshot.programs.sequence_length :]
        padded = _padded([int(token_ids_V[token]) for token in context], snapshot.programs)
        logits_V = np.asarray(predict(snapshot.read_leaves, *padded))[token_ids_V]
        token = _draw(logits_V, settings, random)
        if token == tokenizer.bos_id:  # the document ends where the next one begins
            break
        tokens.append(token)
    return tokenizer.decode(tokens[1:])


def snapshot_mesh(snapshot_dir: Path, manifest: Mapping[str, Any]) -> Mesh:
    """A mesh as the programs were traced for, of the devices that this process was started for.

    Raises:
      SnapshotError: this machine has no such devices.
    """
    num_devices = math.prod(manifest["mesh"].values())
    try:
        return make_mesh(manifest["mesh"])
    except (RuntimeError, ValueError, AssertionError) as error:  # as JAX raises where they are not
        needed = f"{num_devices} devices of platform {manifest['platform']}"
        lacks = f"{snapshot_dir}: needs {needed}, which this machine lacks"
        if manifest["platform"] != "cpu":  # whose devices need no access to files
            lacks += ", or a confined process cannot reach: compare with --sandbox=limits"
        raise SnapshotError(lacks) from error


def _compile_predict(programs: Programs) -> Callable[..., jax.Array]:
    exported = programs.logits[min(programs.logits)]

    @jax.jit
    def predict(read_leaves: list[jax.Array], tokens_BxT: jax.Array, position: jax.Array) -> jax.Array:
        return exported.call(read_leaves, tokens_BxT)[0, position].astype(jnp.float32)

    return predict


def _padded(context: list[int], programs: Programs) -> tuple[np.ndarray, np.int32]:
    """The context at the left of a full batch, and its last position."""
    tokens_BxT = np.zeros((min(programs.logits), programs.sequence_length), np.int32)
    tokens_BxT[:, : len(context)] = context
    return tokens_BxT, np.int32(len(context) - 1)


def _draw(logits_V: np.ndarray, settings: SampleSettings, random: np.random.Generator) -> int:
    if settings.temperature <= 0:
        return int(np.argmax(logits_V))
    if 0 < settings.top_k < len(logits_V):
        least = np.partition(logits_V, -settings.top_k)[-settings.top_k]
        logits_V = np.where(logits_V < least, -np.inf, logits_V)
    # Gumbel's trick: the largest of the noisy logits is a draw from their softmax
    return int(np.argmax(logits_V / settings.temperature + random.gumbel(size=len(logits_V))))
