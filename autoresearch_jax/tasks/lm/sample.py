"""Text from a snapshot: one token at a time, drawn from what its `logits` program predicts."""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from autoresearch_jax.tasks.lm.data.tokenizer import Tokenizer
from autoresearch_jax.tasks.lm.measure import make_mesh
from autoresearch_jax.tasks.lm.programs import Programs
from autoresearch_jax.tasks.lm.snapshot import SnapshotError, load_manifest, load_snapshot


@dataclass(frozen=True)
class SampleSettings:
    """How to draw.

    Attributes:
      prompt: what the text begins with; empty begins a new document.
      num_tokens: how many tokens to add.
      temperature: 0 always takes the likeliest token.
      top_k: draw among so many likeliest tokens; 0 draws among all.
      seed: of the draw.
    """

    prompt: str = ""
    num_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 50
    seed: int = 0


def sample(snapshot_dir: Path, settings: SampleSettings) -> str:
    """The prompt and what the model makes of it, up to the end of the document.

    The program takes a full context and keeps no cache, so each token costs one forward pass; once the text is longer
    than the context, only its end is seen.

    Raises:
      SnapshotError: the snapshot is missing or damaged, or was made for other devices than are here.
    """
    snapshot = load_snapshot(snapshot_dir, snapshot_mesh(snapshot_dir, load_manifest(snapshot_dir)))
    try:
        tokenizer = Tokenizer.load(snapshot.tokenizer_path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SnapshotError(f"{snapshot.tokenizer_path}: damaged: {type(error).__name__}: {error}") from error
    predict = _compile_predict(snapshot.programs)
    random = np.random.default_rng(settings.seed)
    tokens = [tokenizer.bos_id, *map(int, tokenizer.encode(settings.prompt))]
    for _ in range(settings.num_tokens):
        context = tokens[-snapshot.programs.sequence_length :]
        logits_V = np.asarray(predict(snapshot.read_leaves, *_padded(context, snapshot.programs)))
        token = _draw(logits_V, settings, random)
        if token == tokenizer.bos_id:  # the document ends where the next one begins
            break
        tokens.append(token)
    return tokenizer.decode(tokens[1:])


def snapshot_mesh(snapshot_dir: Path, manifest: Mapping[str, Any]) -> Mesh:
    """A mesh as the programs were traced for; takes hold of the devices, and must come before anything else does.

    Raises:
      SnapshotError: this machine has no such devices.
    """
    num_devices = math.prod(manifest["mesh"].values())
    try:
        jax.config.update("jax_platforms", manifest["platform"])
        if manifest["platform"] == "cpu":
            with contextlib.suppress(RuntimeError):  # JAX has hold of its devices already: then they must do
                jax.config.update("jax_num_cpu_devices", num_devices)
        return make_mesh(manifest["mesh"])
    except (RuntimeError, ValueError, AssertionError) as error:  # as JAX raises where they are not
        needed = f"{num_devices} devices of platform {manifest['platform']}"
        raise SnapshotError(f"{snapshot_dir}: needs {needed}, which this machine lacks") from error


def _compile_predict(programs: Programs) -> Callable[..., jax.Array]:
    exported = programs.logits[min(programs.logits)]

    @jax.jit
    def predict(read_leaves: list[jax.Array], tokens_BxT: jax.Array, position: jax.Array) -> jax.Array:
        return exported.call(read_leaves, tokens_BxT)[0, position].astype(jnp.float32)

    return predict


def _padded(context: list[int], programs: Programs) -> tuple[np.ndarray, np.int32]:
    """The context at the left of a full batch, and its last position; what stands right of it cannot be seen."""
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
