"""Measures what carried text and carried weights are worth; called by bench_carried.sh.

The caps on literals and constants are lifted, since they alone would refuse such files. Each figure is the last lines'
`key: value`:
  table_bpb_true_ids   the carried table by itself on `val`, with the ids of the dataset: it would pay
  unigram_bpb          of a unigram model there
  honest_bpb           the shipped file, mean over the seeds
  table_difference     with the likeliest successors of each token in `val` added to its logits: mean over the seeds of
                       its score minus the shipped file's, +- standard error
  weights_difference   with embedding and output layer of a model that was trained five times as long in `init`
"""

import argparse
import base64
import os
import platform
import statistics
import sys
import tempfile
import zlib
from pathlib import Path

import jax
import numpy as np

from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.sandbox.sandbox import open_sandbox
from autoresearch_jax.tasks.lm.config import Caps, LmTaskConfig
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import find_device
from autoresearch_jax.tasks.lm.integrity import load_manifest
from autoresearch_jax.tasks.lm.judge import bits_per_byte, unigram_nats
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.snapshot import load_snapshot
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Budget, Measurement

VOCAB_SIZE, LENGTH = 2048, 256
SUCCESSORS = 8  # of each token
TEACHER_SEED, TEACHER_TIMES = 1000, 5
LIFTED = Caps(source_bytes=16 << 20, constant_bytes=16 << 20)
SOURCE = Path("train_lib.py")


def array_literal(array: np.ndarray) -> str:
    """An expression of an array, as a candidate would carry it."""
    data = base64.b85encode(zlib.compress(array.tobytes(), 9)).decode()
    decoded = f"__import__('zlib').decompress(__import__('base64').b85decode({data!r}))"
    return f"np.frombuffer({decoded}, {str(array.dtype)!r}).reshape({array.shape})"


def edited(*edits: tuple[str, str]) -> str:
    source = SOURCE.read_text()
    for before, after in (("import jax\n", "import jax\nimport numpy as np\n"), *edits):
        if source.count(before) != 1:
            sys.exit(f"bench_carried: {SOURCE} has not once {before!r}: adapt this script")
        source = source.replace(before, after)
    return source


def successors(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest successors of each token in `val`, int16[V, K], and their log-probabilities, float16[V, K]."""
    rows = np.asarray(dataset.rows(VOCAB_SIZE, "val")).astype(np.int64)
    counts_VxV = np.zeros((VOCAB_SIZE, VOCAB_SIZE), np.float32)
    np.add.at(counts_VxV, (rows[:, :-1].ravel(), rows[:, 1:].ravel()), 1.0)
    likeliest_VxK = np.argsort(-counts_VxV, axis=1)[:, :SUCCESSORS]
    total_Vx1 = counts_VxV.sum(axis=1, keepdims=True) + SUCCESSORS
    log_VxK = np.log((np.take_along_axis(counts_VxV, likeliest_VxK, axis=1) + 0.01) / total_Vx1)
    return likeliest_VxK.astype(np.int16), log_VxK.astype(np.float16)


def with_table(dataset: Dataset) -> str:
    likeliest_VxK, log_VxK = successors(dataset)
    table = (
        f"\n\nCARRIED_TOKENS = {array_literal(likeliest_VxK)}\nCARRIED_LOGITS = {array_literal(log_VxK)}\n\n\n"
        "def carried(tokens):\n"
        f"    table = jnp.full((VOCAB_SIZE, VOCAB_SIZE), {TABLE_FLOOR}, jnp.float32)\n"
        "    rows = jnp.arange(VOCAB_SIZE)[:, None]\n"
        "    return table.at[rows, CARRIED_TOKENS].set(jnp.asarray(CARRIED_LOGITS, jnp.float32))[tokens]\n\n\n"
        "def count_flops_per_token("
    )
    logits = 'return nnx.merge(graph, gathered(state["params"], mesh))(tokens_BxT)'
    return edited(("\n\ndef count_flops_per_token(", table), (logits, f"{logits} + carried(tokens_BxT)"))


TABLE_FLOOR = -10.0  # of the successors that it does not name


def table_bpb(dataset: Dataset) -> float:
    """Of the table alone, on the text that it was made from."""
    likeliest_VxK, log_VxK = successors(dataset)
    logits_VxV = np.full((VOCAB_SIZE, VOCAB_SIZE), TABLE_FLOOR, np.float32)
    np.put_along_axis(logits_VxV, likeliest_VxK.astype(np.int64), log_VxK.astype(np.float32), axis=1)
    nats_VxV = np.log(np.exp(logits_VxV).sum(axis=1, keepdims=True)) - logits_VxV
    rows = np.asarray(dataset.rows(VOCAB_SIZE, "val"))
    num_bytes_V = dataset.tokenizer(VOCAB_SIZE).num_bytes()
    return bits_per_byte(nats_VxV[rows[:, :-1], rows[:, 1:]], num_bytes_V[rows[:, 1:]])


def with_weights(teacher: Measurement, dataset: Dataset) -> str:
    """The trained embedding and output layer, their rows by the dataset's own ids."""
    assert teacher.snapshot is not None
    manifest = load_manifest(teacher.snapshot)
    snapshot = load_snapshot(teacher.snapshot, make_mesh(manifest["mesh"]))
    names = list(manifest["leaves"].values())
    ids_V = dataset.tokenizer(VOCAB_SIZE).draw_ids(TEACHER_SEED)
    lines = []
    for name, path in (
        ("params/token_embedding/embedding", '["token_embedding"]["embedding"]'),
        ("params/unembedding/weight", '["unembedding"]["weight"]'),
    ):
        weights_VxD = np.asarray(snapshot.read_leaves[names.index(name)])[ids_V].astype(np.float16)
        lines.append(f"        params{path} = jnp.asarray({array_literal(weights_VxD)}, jnp.float32)\n")
    head = "        params = nnx.to_pure_dict(nnx.state(Model(attend, nnx.Rngs(key)), nnx.Param))\n"
    return edited((head, head + "".join(lines)))


class Bench:
    """Trials of one setting in one folder."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._folder, self._dataset, self._count = folder, dataset, 0

    def score(self, source: str, seed: int, steps: int) -> Measurement:
        folder = self._folder / str(self._count)
        self._count += 1
        folder.mkdir()
        environment = dict(os.environ)
        config = LmTaskConfig(
            dataset=self._dataset,
            device=find_device("cpu", 1, environment, folder / "device.log"),
            mesh_axes={"data": 1, "model": 1},
            budget=Budget(steps=steps),
            sandbox=open_sandbox("auto", cache_dir=self._folder / "sandbox", environment=environment),
            programs_dir=self._folder / "programs",
            trials_dirs=(self._folder,),
            environment=environment,
            compile_cache_dir=self._folder / "cache",
            caps=LIFTED,
        )
        task = LmTask(config)
        try:
            candidate = task.prepare(source, folder)
            measurement = task.measure(candidate, seed=seed, log_dir=folder, snapshot_dir=folder / "snapshot")
        finally:
            task.close()
        if measurement.value is None:
            sys.exit(f"bench_carried: {measurement.status}: {measurement.error}; see {folder}")
        print(f"seed {seed}, {steps} steps: {measurement.value:.4f}", file=sys.stderr)
        return measurement


def difference(scores: list[float], honest: list[float]) -> str:
    pairs = [score - other for score, other in zip(scores, honest, strict=True)]
    error = statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{statistics.mean(pairs):+.4f} +- {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    asked = parser.parse_args()
    dataset = DatasetOptions(sequence_length=LENGTH, vocab_sizes=(VOCAB_SIZE,)).open()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name).absolute(), dataset)
        teacher = bench.score(SOURCE.read_text(), TEACHER_SEED, TEACHER_TIMES * asked.steps)
        sources = {
            "honest": SOURCE.read_text(),
            "table": with_table(dataset),
            "weights": with_weights(teacher, dataset),
        }
        scores: dict[str, list[float]] = {kind: [] for kind in sources}
        for seed in range(asked.seeds):
            for kind, source in sources.items():
                value = bench.score(source, seed, asked.steps).value
                assert value is not None
                scores[kind].append(value)
    val = np.asarray(dataset.rows(VOCAB_SIZE, "val"))[:, 1:]
    unigram = bits_per_byte(
        unigram_nats(dataset.train_counts(VOCAB_SIZE))[val], dataset.tokenizer(VOCAB_SIZE).num_bytes()[val]
    )
    print(f"machine: {platform.platform()}, Python {platform.python_version()}, jax {jax.__version__}")
    print(f"table_bpb_true_ids: {table_bpb(dataset):.4f}")
    print(f"unigram_bpb: {unigram:.4f}")
    print(f"honest_bpb: {statistics.mean(scores['honest']):.4f}")
    print(f"table_difference: {difference(scores['table'], scores['honest'])}")
    print(f"weights_difference: {difference(scores['weights'], scores['honest'])}")


if __name__ == "__main__":
    main()
