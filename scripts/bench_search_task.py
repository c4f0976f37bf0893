"""The real task of bench_search.py: train_lib.py itself, small, a fixed number of steps, the same digits every time.

The table is program.md's with two rows cut down to a second's size. The text is the running Python's own standard
library as raw bytes; what is minimised is bits per byte of files that are not trained on, after `STEPS` updates.

Constants that are real numbers are arguments of the compiled program instead of literals in it, so that moving them
costs no compilation. The program is the one that the literals would give, but for a float32's rounding.
"""

import hashlib
import importlib.util
import json
import operator
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_search_problems import Problem
from jax.sharding import AxisType

from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.engine.program import read_program
from autoresearch_jax.proposers.space import Choices, FloatRange, IntRange, Value
from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus
from autoresearch_jax.tasks.lm.data.text_files import Skipped
from autoresearch_jax.tasks.lm.judge import bits_per_byte

NAME = "train_lib"
ROOT = Path(__file__).resolve().parent.parent
VOCAB_SIZE = 256
# What makes it a task of a second; the rest of train_lib.py is as it stands.
SMALL = {
    "HEAD_DIM": 8,
    "VOCAB_SIZE": VOCAB_SIZE,
    "VALUE_GATE_CHANNELS": 4,
    "COMPUTE_DTYPE": "float32",
    "MUON_ITERATIONS": 3,
    "DEPTH": 2,
    "ASPECT_RATIO": 16,
}
ROWS = {"DEPTH": IntRange(1, 3), "ASPECT_RATIO": Choices((8, 16, 24))}  # in place of program.md's
ASKED = ("WARMUP_FRACTION", "COOLDOWN_FRACTION")  # the training file asks while it is traced whether they are zero
STEPS = 64
SEQUENCE_LENGTH = 64
TEXT_BYTES = 2**20
VALIDATION_ROWS = 128
BOS = VOCAB_SIZE - 1  # a byte that UTF-8 never has
SEED = 0
MOST_PROGRAMS = 24  # that a process holds, each some 40 MB; XLA's cache on disk has the others
# Two searches run at once on two cores, and XLA reads this before the first computation.
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class Scores:
    """Bits per byte of settings, each measured once; None where it is no finite number."""

    def __init__(self, source: str, real_names: tuple[str, ...], folder: Path, run: str) -> None:
        """Reads what was measured before.

        Args:
          source: the training file.
          real_names: constants that may be arguments of a program.
          folder: keeps the scores, a file a run, and the programs.
          run: name of the file for what is measured now.
        """
        self._source, self._real_names, self._folder = source, real_names, folder
        self._file = folder / f"{run}.jsonl"
        self._programs: dict[str, Callable[..., Any]] = {}
        self._known: dict[str, float | None] = {}
        self._rows: np.ndarray | None = None
        for path in folder.glob("*.jsonl"):
            for line in path.read_text().splitlines():
                try:
                    key, score = json.loads(line)
                except ValueError:  # the last line of a run that was killed
                    continue
                self._known[key] = score

    def __call__(self, setting: Mapping[str, Value]) -> float | None:
        key = json.dumps(setting, sort_keys=True)
        if key not in self._known:
            self._known[key] = score = self._measure(setting)
            with self._file.open("a") as file:
                file.write(f"\n{json.dumps([key, score])}")  # the line break first: the line before may be half a one
        return self._known[key]

    def _measure(self, setting: Mapping[str, Value]) -> float | None:
        if self._rows is None:
            self._rows = read_rows()
        reals = {name: np.float32(setting[name]) for name in self._real_names}
        # a warm-up of zero is another program: train_lib.py leaves out what it would divide by
        literals = {
            name: value for name, value in setting.items() if name not in reals or (name in ASKED and not value)
        }
        arguments = {name: value for name, value in reals.items() if name not in literals}
        key = json.dumps(literals, sort_keys=True)
        if key not in self._programs:
            if len(self._programs) == MOST_PROGRAMS:
                self._programs.clear()
                jax.clear_caches()
            self._programs[key] = _compiled(set_constants(self._source, literals), self._folder)
        rows_per_step = int(setting["BATCH_SIZE"])
        train, val = self._rows[:-VALIDATION_ROWS], self._rows[-VALIDATION_ROWS:]
        tokens_SxBxT = train[: STEPS * rows_per_step].reshape(STEPS, rows_per_step, -1)
        nats_NxT = np.asarray(self._programs[key](arguments, tokens_SxBxT, val))
        if not np.isfinite(nats_NxT).all():
            return None
        return bits_per_byte(nats_NxT, np.ones(nats_NxT.shape, np.int64))


class Argument:
    """A number that is not known before the program runs, but is known not to be zero."""

    def __init__(self, value: jax.Array) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return True

    def __rtruediv__(self, other: Any) -> Any:
        return operator.truediv(other, self.value)


def _compiled(source: str, folder: Path) -> Callable[..., Any]:
    """Trains from the start and scores: (arguments, tokens [S, B, T + 1], rows [N, T + 1]) -> nats [N, T]."""
    module = _module(source, folder)
    task = TaskSpec((VOCAB_SIZE,), SEQUENCE_LENGTH, budget_steps=STEPS)
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])

    def train_and_score(arguments: Mapping[str, jax.Array], tokens_SxBxT: jax.Array, val_NxT: jax.Array) -> jax.Array:
        for name, value in arguments.items():  # once, while it is traced; the module is this program's alone
            setattr(module, name, Argument(value) if name in ASKED else value)
        experiment = module.build(task, mesh)

        def step(state: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            return experiment.step(state, *at)[0], None

        progress_S = jnp.arange(STEPS, dtype=jnp.float32) / STEPS
        state, _ = jax.lax.scan(step, experiment.init(jax.random.key(SEED)), (tokens_SxBxT, progress_S))
        log_probabilities_NxTxV = jax.nn.log_softmax(experiment.logits(state, val_NxT[:, :-1]))
        return -jnp.take_along_axis(log_probabilities_NxTxV, val_NxT[:, 1:, None], axis=-1)[..., 0]

    return jax.jit(train_and_score)


def _module(source: str, folder: Path) -> ModuleType:
    path = folder / f"train_lib_{hashlib.sha256(source.encode()).hexdigest()[:16]}.py"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(source)
        part.rename(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_rows() -> np.ndarray:
    """Rows of BOS and bytes, int32[N, T + 1], in an order that never changes; the last are of other files."""
    texts = (document.text.encode() for document in open_corpus("stdlib").fetch(Reporter()).documents(Skipped()))
    by_hash = sorted(texts, key=lambda text: hashlib.sha256(text).digest())
    joined = np.frombuffer(b"".join(by_hash)[:TEXT_BYTES], np.uint8).astype(np.int32)
    rows_NxT = joined[: len(joined) // SEQUENCE_LENGTH * SEQUENCE_LENGTH].reshape(-1, SEQUENCE_LENGTH)
    with_bos = np.insert(rows_NxT, 0, BOS, axis=1)
    train, val = with_bos[: -4 * VALIDATION_ROWS], with_bos[-VALIDATION_ROWS:]  # no file lies in both, short of 24 kB
    return np.concatenate([np.random.default_rng(SEED).permutation(train), val])


def make_task(cache: Path, run: str) -> Problem:
    """The task, with a folder of `cache` for this machine and these versions.

    Args:
      cache: what was measured once is read from there.
      run: name for what is measured now; two processes must not share it.
    """
    source = set_constants((ROOT / "train_lib.py").read_text(), SMALL)
    constants = read_constants(source)
    rows = read_program(ROOT / "program.md").space(constants)
    space = tuple(replace(row, values=ROWS.get(row.name, row.values)) for row in rows)
    start = {row.name: constants[row.name] for row in space}
    real_names = tuple(row.name for row in space if isinstance(row.values, FloatRange))
    words = (source, Path(__file__).read_text(), repr(space), platform.python_version(), jax.__version__, _cpu_model())
    folder = cache / hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return Problem(NAME, space, start, Scores(source, real_names, folder, run))


def _cpu_model() -> str:
    """What the processor calls itself: another one rounds otherwise."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
