"""Curves of real trainings for bench_prune.py: train_lib.py itself, made small as bench_search_task.py makes it.

A trial of the recording has what a trial of a run has: a setting of program.md's table, a budget, a loss at each step,
and bits per byte of text that is not trained on. The budget is a number of floating-point operations, so that, as on a
clock, a larger model or batch has fewer steps, and the machine's load does not matter. A third of the settings are
drawn at random, a third are the start with one to three constants moved, a third are what the constants proposer tries
one after the other; the start itself runs with further seeds, which show the noise.
"""

import hashlib
import importlib.util
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_search_methods import METHODS, OURS
from bench_search_problems import Problem
from bench_search_task import ASKED, BOS, ROOT, SEQUENCE_LENGTH, SMALL, VOCAB_SIZE, Argument
from jax.sharding import AxisType

from autoresearch_jax.assets.python_constants import read_constants, set_constants
from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.engine.program import read_program
from autoresearch_jax.proposers.space import Constant, FloatRange, IntRange, Value
from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus
from autoresearch_jax.tasks.lm.data.text_files import Skipped
from autoresearch_jax.tasks.lm.judge import bits_per_byte

FOLDER = ROOT / "scripts" / "curves"
POINTS = 40  # of a curve: the mean loss of each fortieth of the budget
STEPS = 400  # of the start; of others as many as cost the same
LEAST_STEPS, MOST_STEPS = 100, 1200
TEXT_BYTES = 4 * 2**20
VALIDATION_ROWS = 512
START = "start"  # origin of the start's own trials
SEEDS_OF_START = 6
# In place of program.md's rows, and without those: few programs, because each costs seconds to compile.
ROWS = {"DEPTH": IntRange(1, 3)}
WITHOUT = ("ASPECT_RATIO", "WINDOW_PATTERN")


@dataclass(frozen=True)
class Curve:
    """A trial of the recording.

    Attributes:
      origin: who made the setting: "start", "random", "near" or "optuna".
      seed: of initialisation and order of the rows.
      constants: those of the table.
      steps: how many the budget had room for.
      losses: mean nats per token of each fortieth of the budget; shorter if the loss stopped being a number.
      final: bits per byte of the validation rows; None if it is no number.
    """

    origin: str
    seed: int
    constants: Mapping[str, Value]
    steps: int
    losses: tuple[float, ...]
    final: float | None


def read_curves(path: Path) -> list[Curve]:
    """Curves of a recording, in its order."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Curve(**{**row, "losses": tuple(row["losses"])}) for row in rows]


def record(path: Path, source: str, seed: int, trials: int) -> None:
    """Appends to a file what it lacks of a recording; the same call goes on where it ended."""
    recorder = _Recorder(path, source, seed)
    for other in range(SEEDS_OF_START):
        recorder.run(START, recorder.start, seed * 100 + other)
    rng = random.Random(seed)
    for index in range(2 * trials // 3):
        setting = _drawn(recorder.space, recorder.start, rng, near=index % 2 == 0)
        recorder.run("near" if index % 2 == 0 else "random", setting, seed * 100)
    METHODS[OURS](recorder.problem(seed * 100), seed, trials // 3)


def _drawn(
    space: tuple[Constant, ...], start: Mapping[str, Value], rng: random.Random, *, near: bool
) -> Mapping[str, Value]:
    """A setting drawn at random: all of it, or one to three constants of the start."""
    rows = rng.sample(space, rng.randint(1, 3)) if near else list(space)
    return {**start, **{row.name: _value(row, rng) for row in rows}}


def _value(row: Constant, rng: random.Random) -> Value:
    values = row.values
    if isinstance(values, FloatRange):
        if values.log:
            return math.exp(rng.uniform(math.log(values.low), math.log(values.high)))
        return rng.uniform(values.low, values.high)
    if isinstance(values, IntRange):
        return rng.randint(values.low, values.high)
    return rng.choice(values.values)


class _Recorder:
    def __init__(self, path: Path, source: str, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._source = set_constants(source, SMALL)
        constants = read_constants(self._source)
        rows = read_program(ROOT / "program.md").space(constants)
        self.space = tuple(
            Constant(row.name, ROWS.get(row.name, row.values)) for row in rows if row.name not in WITHOUT
        )
        self.start = {row.name: constants[row.name] for row in self.space}
        self._real_names = {row.name for row in self.space if isinstance(row.values, FloatRange)}
        self._rows = _read_rows()
        self._programs: dict[str, tuple[int, Callable[..., Any]]] = {}
        known = read_curves(path) if path.exists() else []
        self._known = {(self._key(curve.constants), curve.seed): curve for curve in known}
        self._reference = self._cost(self.start)

    def problem(self, seed: int) -> Problem:
        """The same task for a search, which is recorded, too."""
        return Problem("train_lib", self.space, self.start, lambda setting: self.run("optuna", setting, seed).final)

    def run(self, origin: str, setting: Mapping[str, Value], seed: int) -> Curve:
        """Trains a setting, unless that was done before."""
        key = self._key(setting), seed
        if key not in self._known:
            began = time.process_time()
            self._known[key] = curve = self._train(origin, setting, seed)
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(curve), separators=(",", ":")) + "\n")
            spent = time.process_time() - began
            print(f"{len(self._known):4} {origin:7} {curve.steps:4} steps {spent:6.1f} s  {curve.final}", flush=True)
        return self._known[key]

    def _key(self, setting: Mapping[str, Value]) -> str:
        return json.dumps(dict(setting), sort_keys=True)

    def _cost(self, setting: Mapping[str, Value]) -> float:
        """Floating-point operations of a step."""
        experiment = _load(set_constants(self._source, setting), self._seed).build(*_ground())
        return float(setting["BATCH_SIZE"]) * experiment.model_flops_per_token

    def _train(self, origin: str, setting: Mapping[str, Value], seed: int) -> Curve:
        # a warm-up of zero is another program: train_lib.py leaves out what it would divide by
        arguments = {
            name: np.float32(value)
            for name, value in setting.items()
            if name in self._real_names and not (name in ASKED and not value)
        }
        literals = {name: value for name, value in setting.items() if name not in arguments}
        key = json.dumps(literals, sort_keys=True)
        if key not in self._programs:
            steps = round(STEPS * self._reference / self._cost(setting))
            steps = min(MOST_STEPS, max(LEAST_STEPS, steps))
            self._programs[key] = steps, _compiled(set_constants(self._source, literals), steps, self._seed)
        steps, program = self._programs[key]
        train, val = self._rows[:-VALIDATION_ROWS], self._rows[-VALIDATION_ROWS:]
        order = np.random.default_rng(seed).permutation(len(train))
        batch = int(setting["BATCH_SIZE"])
        tokens_SxBxT = train[np.resize(order, steps * batch)].reshape(steps, batch, -1)
        losses_S, nats_NxT = map(np.asarray, program(arguments, tokens_SxBxT, val, seed))
        points = [float(losses_S[part].mean()) for part in _parts(steps)]
        finite = next((i for i, loss in enumerate(points) if not math.isfinite(loss)), POINTS)
        is_score = finite == POINTS and np.isfinite(nats_NxT).all()
        final = bits_per_byte(nats_NxT, np.ones(nats_NxT.shape, np.int64)) if is_score else None
        short = {name: round(value, 6) if isinstance(value, float) else value for name, value in setting.items()}
        return Curve(
            origin,
            seed,
            short if origin != "optuna" else dict(setting),
            steps,
            tuple(round(loss, 4) for loss in points[:finite]),
            None if final is None else round(final, 6),
        )


def _read_rows() -> np.ndarray:
    """Rows of BOS and bytes, int32[N, T + 1], in an order that never changes; the last are of other files."""
    texts = (document.text.encode() for document in open_corpus("stdlib").fetch(Reporter()).documents(Skipped()))
    by_hash = sorted(texts, key=lambda text: hashlib.sha256(text).digest())
    joined = np.frombuffer(b"".join(by_hash)[:TEXT_BYTES], np.uint8).astype(np.int32)
    rows_NxT = joined[: len(joined) // SEQUENCE_LENGTH * SEQUENCE_LENGTH].reshape(-1, SEQUENCE_LENGTH)
    with_bos = np.insert(rows_NxT, 0, BOS, axis=1)
    return np.concatenate([with_bos[: -2 * VALIDATION_ROWS], with_bos[-VALIDATION_ROWS:]])


def _parts(steps: int) -> Iterator[slice]:
    """The steps that end in each fortieth of the budget."""
    for point in range(POINTS):
        yield slice(point * steps // POINTS, (point + 1) * steps // POINTS)


def _ground() -> tuple[TaskSpec, Any]:
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])
    return TaskSpec((VOCAB_SIZE,), SEQUENCE_LENGTH, budget_steps=STEPS), mesh


def _compiled(source: str, steps: int, seed: int) -> Callable[..., Any]:
    """Trains from the start and scores: (arguments, tokens [S, B, T + 1], rows [N, T + 1], seed) -> losses, nats."""
    module = _load(source, seed)

    def run(arguments: Mapping[str, jax.Array], tokens_SxBxT: jax.Array, val_NxT: jax.Array, key: Any) -> Any:
        for name, value in arguments.items():  # once, while it is traced; the module is this program's alone
            setattr(module, name, Argument(value) if name in ASKED else value)
        experiment = module.build(*_ground())

        def step(state: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            state, metrics = experiment.step(state, *at)
            return state, metrics["loss"]

        progress_S = jnp.arange(steps, dtype=jnp.float32) / steps
        state, losses_S = jax.lax.scan(step, experiment.init(jax.random.key(key)), (tokens_SxBxT, progress_S))
        log_probabilities_NxTxV = jax.nn.log_softmax(experiment.logits(state, val_NxT[:, :-1]))
        nats_NxT = -jnp.take_along_axis(log_probabilities_NxTxV, val_NxT[:, 1:, None], axis=-1)[..., 0]
        return losses_S, nats_NxT

    return jax.jit(run)


def _load(source: str, seed: int) -> ModuleType:
    spec = importlib.util.spec_from_loader(f"train_lib_{seed}", None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, "train_lib.py", "exec"), module.__dict__)
    return module
