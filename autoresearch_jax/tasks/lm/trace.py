"""Traces a candidate: runs its Python once, without data, and writes its three functions as StableHLO.

    python -m autoresearch_jax.tasks.lm.trace REQUEST.json OUT_DIR

The only process that ever runs the candidate's Python; `programs.py` checks what it writes in another process. The
state, any pytree, becomes a flat list of plain arrays (typed PRNG keys as their raw data), named by key path.
"""

import importlib.machinery
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoresearch_jax.contract import Experiment, Phase, Step, TaskSpec
from autoresearch_jax.kernels.platforms import ATTENTION_CALLS, seen_by_jax
from autoresearch_jax.tasks.lm.conditions import TRACE_BEGINS, fix_sources

FAILURE_FILE = "failure.json"
MAX_REASON_CHARACTERS = 2000
# jax.export promises nothing of these calls in a later version; a program runs where it was traced for, and at once.
UNPROMISED_CALLS = (
    *ATTENTION_CALLS,
    *(export.DisabledSafetyCheck.custom_call(f"lapack_{dtype}geqp3_ffi") for dtype in "sdcz"),
    export.DisabledSafetyCheck.custom_call("cusolver_syrk_ffi"),
)
SIGNATURE_FILE = "signature.json"
METRIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")
METRIC_NAME_RULE = "use up to 64 letters, digits and _ . / -"


class ContractError(Exception):
    """The training file does not keep the contract; one line with the remedy."""


@dataclass(frozen=True)
class Leaf:
    """One array of the state: what it is called, and how it crosses the boundary."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    spec: PartitionSpec

    key_impl: Any  # the PRNG implementation of a typed key, None for a plain array

    def encode(self, value: Any) -> jax.Array:
        return jnp.asarray(value) if self.key_impl is None else jax.random.key_data(value)

    def decode(self, value: jax.Array) -> Any:
        return value if self.key_impl is None else jax.random.wrap_key_data(value, impl=self.key_impl)

    @property
    def outside(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the plain array that stands for this leaf outside of the candidate."""
        plain = jax.eval_shape(self.encode, jax.ShapeDtypeStruct(self.shape, self.dtype))
        return jax.ShapeDtypeStruct(plain.shape, plain.dtype)


class StateBoundary:
    """Turns the candidate's state into a list of plain arrays and back."""

    def __init__(self, state_shape: Any, state_sharding: Any, mesh: Mesh) -> None:
        named, treedef = jax.tree_util.tree_flatten_with_path(state_shape)
        self.treedef: Any = treedef
        specs = _flat_specs(state_sharding, self.treedef)
        self.leaves = [
            Leaf(_path_name(path), tuple(value.shape), value.dtype, spec, _key_impl(value))
            for (path, value), spec in zip(named, specs, strict=True)
        ]
        self.structs = [leaf.outside for leaf in self.leaves]
        self.shardings = [NamedSharding(mesh, leaf.spec) for leaf in self.leaves]

    def encode(self, state: Any) -> list[jax.Array]:
        return [leaf.encode(value) for leaf, value in zip(self.leaves, jax.tree.leaves(state), strict=True)]

    def decode(self, arrays: Sequence[jax.Array]) -> Any:
        values = [leaf.decode(array) for leaf, array in zip(self.leaves, arrays, strict=True)]
        return jax.tree.unflatten(self.treedef, values)

    def check_same(self, other_shape: Any) -> None:
        """Raises ContractError if `step` would return another state than it took."""
        named, treedef = jax.tree_util.tree_flatten_with_path(other_shape)
        after = {_path_name(path): (tuple(value.shape), value.dtype) for path, value in named}
        before = {leaf.name: (leaf.shape, leaf.dtype) for leaf in self.leaves}
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                change = f"{_array_words(before.get(name))} became {_array_words(after.get(name))}"
                raise ContractError(f"`step` returns another state than it took: {name}: {change}")
        if treedef != self.treedef:
            raise ContractError("`step` returns a state of another pytree structure than it took")


def trace(source_path: Path, task: TaskSpec, mesh: Mesh, judge_batch_sizes: Sequence[int], out_dir: Path) -> None:
    """Builds the experiment and writes its programs and their signature into `out_dir`, an empty folder.

    `mesh` is of host devices; `logits` is traced for each of `judge_batch_sizes`.

    Raises:
      ContractError: the file does not keep the contract.
    """
    experiment = _build(_load(source_path), task, mesh)
    _check_experiment(experiment, task, mesh)

    key_struct = jax.ShapeDtypeStruct((2,), jnp.uint32)
    replicated = NamedSharding(mesh, PartitionSpec())
    by_rows = NamedSharding(mesh, PartitionSpec("data"))

    def plain_init(key_data: jax.Array) -> Any:
        return experiment.init(jax.random.wrap_key_data(key_data, impl="threefry2x32"))

    boundary = StateBoundary(jax.eval_shape(plain_init, key_struct), experiment.state_sharding, mesh)

    def save(name: str, function: Any, *structs: Any, in_shardings: Any, out_shardings: Any, donate: bool) -> None:
        jitted = jax.jit(
            function,
            in_shardings=in_shardings,
            out_shardings=out_shardings,
            donate_argnums=(0,) if donate else (),
        )
        (out_dir / f"{name}.export").write_bytes(_export(jitted, name, task.platform, *structs).serialize())

    def flat_init(key_data: jax.Array) -> list[jax.Array]:
        return boundary.encode(plain_init(key_data))

    save("init", flat_init, key_struct, in_shardings=replicated, out_shardings=boundary.shardings, donate=False)

    metric_names: list[list[str]] = []
    for index, phase in enumerate(experiment.phases):
        flat_step, names = _flat_step(phase, boundary)
        save(
            f"step_{index}",
            flat_step,
            boundary.structs,
            jax.ShapeDtypeStruct(phase.batch_shape, jnp.int32),
            jax.ShapeDtypeStruct((), jnp.float32),
            in_shardings=(boundary.shardings, by_rows, replicated),
            out_shardings=(boundary.shardings, replicated),
            donate=True,
        )
        metric_names.append(names)

    read_leaves = _leaves_read_by_logits(experiment, boundary, mesh, min(judge_batch_sizes), task)
    placeholders = {i for i in range(len(boundary.leaves)) if i not in read_leaves}

    def flat_logits(read_arrays: list[jax.Array], tokens_BxT: jax.Array) -> jax.Array:
        arrays = dict(zip(read_leaves, read_arrays, strict=True))
        for i in placeholders:  # never read, so never computed
            arrays[i] = jnp.zeros(boundary.structs[i].shape, boundary.structs[i].dtype)
        return experiment.logits(boundary.decode([arrays[i] for i in sorted(arrays)]), tokens_BxT)

    for rows in judge_batch_sizes:
        save(
            f"logits_{rows}",
            flat_logits,
            [boundary.structs[i] for i in read_leaves],
            jax.ShapeDtypeStruct((rows, task.sequence_length), jnp.int32),
            in_shardings=([boundary.shardings[i] for i in read_leaves], by_rows),
            out_shardings=by_rows,
            donate=False,
        )

    flops_per_token = experiment.model_flops_per_token
    signature = {
        "vocab_size": int(experiment.vocab_size),  # NumPy's numbers, too, are what a file may count with
        "sequence_length": task.sequence_length,
        "platform": task.platform,
        "mesh": dict(mesh.shape),
        "leaves": [leaf.name for leaf in boundary.leaves],
        "read_leaves": read_leaves,
        "phases": [
            {
                "from_progress": float(phase.from_progress),
                "batch_shape": list(map(int, phase.batch_shape)),
                "metrics": names,
            }
            for phase, names in zip(experiment.phases, metric_names, strict=True)
        ],
        "judge_batch_sizes": list(judge_batch_sizes),
        "model_flops_per_token": None if flops_per_token is None else float(flops_per_token),
    }
    (out_dir / SIGNATURE_FILE).write_text(json.dumps(signature, indent=1))


def _load(source_path: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("train_lib", str(source_path))  # it accepts any suffix
    spec = importlib.util.spec_from_file_location("train_lib", source_path, loader=loader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_lib"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _build(module: ModuleType, task: TaskSpec, mesh: Mesh) -> Experiment:
    build = getattr(module, "build", None)
    if not callable(build):
        raise ContractError("the file has no function `build(task, mesh)`: add one that returns an Experiment")
    experiment = build(task, mesh)
    if not isinstance(experiment, Experiment):
        raise ContractError(f"`build` returned {type(experiment).__name__}, not an Experiment")
    return experiment


def _check_experiment(experiment: Experiment, task: TaskSpec, mesh: Mesh) -> None:
    if experiment.vocab_size not in task.vocab_sizes:
        offered = ", ".join(map(str, task.vocab_sizes))
        raise ContractError(f"vocab_size {experiment.vocab_size} is not offered by the dataset, which has {offered}")
    previous = -1.0
    for phase in experiment.phases:
        if not previous < phase.from_progress < 1:
            raise ContractError("phases must begin at rising progress below 1")
        previous = phase.from_progress
        rows, length = phase.batch_shape
        if rows < 1 or length < 2 or task.sequence_length % (length - 1):
            raise ContractError(
                f"batch_shape {phase.batch_shape} must be (rows, context + 1) with a context that divides the "
                f"sequence length {task.sequence_length}"
            )
        if rows % mesh.shape["data"]:
            raise ContractError(
                f'a batch of {rows} rows does not divide over the {mesh.shape["data"]} devices of "data"'
            )


def _flat_step(phase: Phase, boundary: StateBoundary) -> tuple[Any, list[str]]:
    """The phase's step over flat lists, its metrics as float32 in the order of their names, and those names."""
    tokens = jax.ShapeDtypeStruct(phase.batch_shape, jnp.int32)
    progress = jax.ShapeDtypeStruct((), jnp.float32)

    def plain_step(step: Step, arrays: list[jax.Array], tokens_BxT1: jax.Array, progress: jax.Array) -> Any:
        result = step(boundary.decode(arrays), tokens_BxT1, progress)
        if not (isinstance(result, tuple) and len(result) == 2 and hasattr(result[1], "items")):
            raise ContractError("`step` must return (state, metrics) with metrics a dict")
        return result

    def metrics_of(step: Step) -> Mapping[str, jax.ShapeDtypeStruct]:
        state_shape, metrics_shape = jax.eval_shape(partial(plain_step, step), boundary.structs, tokens, progress)
        boundary.check_same(state_shape)
        return metrics_shape

    try:
        metrics_shape = metrics_of(phase.step)
    except (TypeError, ValueError):
        # a jit with out_shardings reports another structure with a message less clear than ours
        metrics_of(getattr(phase.step, "__wrapped__", phase.step))
        raise
    names = sorted(metrics_shape)
    if "loss" not in names:
        raise ContractError('`step` returns no metric "loss": add it, in nats per token')
    for name in names:
        if not METRIC_NAME.fullmatch(name):
            raise ContractError(f"a metric of `step` is called {name[:80]!r}: {METRIC_NAME_RULE}")
        if metrics_shape[name].shape != ():
            raise ContractError(f"metric {name!r} of `step` has shape {metrics_shape[name].shape}, not ()")

    def flat_step(arrays: list[jax.Array], tokens_BxT1: jax.Array, progress: jax.Array) -> Any:
        state, metrics = plain_step(phase.step, arrays, tokens_BxT1, progress)
        return boundary.encode(state), [jnp.asarray(metrics[name], jnp.float32) for name in names]

    return flat_step, names


def _leaves_read_by_logits(
    experiment: Experiment, boundary: StateBoundary, mesh: Mesh, rows: int, task: TaskSpec
) -> list[int]:
    """Indices of the state's leaves that `logits` depends on: these count as the parameters."""

    def logits(arrays: list[jax.Array], tokens_BxT: jax.Array) -> Any:
        return experiment.logits(boundary.decode(arrays), tokens_BxT)

    tokens = jax.ShapeDtypeStruct((rows, task.sequence_length), jnp.int32)
    shape = getattr(jax.eval_shape(logits, boundary.structs, tokens), "shape", None)
    expected = (rows, task.sequence_length, experiment.vocab_size)
    if shape != expected:
        raise ContractError(f"`logits` returns shape {shape} for tokens {tokens.shape}, not {expected}")
    jitted = jax.jit(logits, in_shardings=(boundary.shardings, NamedSharding(mesh, PartitionSpec("data"))))
    kept = _export(jitted, "logits", task.platform, boundary.structs, tokens).module_kept_var_idx
    return [i for i in kept if i < len(boundary.leaves)]


def _export(jitted: Any, name: str, platform: str, *structs: Any) -> export.Exported:
    try:
        return export.export(jitted, platforms=[platform], disabled_checks=UNPROMISED_CALLS)(*structs)
    except ValueError as error:
        calls = sorted(set(re.findall(r"custom_call @([^(]+)\(", str(error))))
        if "compatibility guarantees" not in str(error) or not calls:
            raise
        raise ContractError(
            f"`{name.split('_')[0]}` uses custom calls that are not allowed: {', '.join(calls)}: "
            "compute the same with other functions of jax.numpy and jax.lax"
        ) from error
    except NotImplementedError as error:
        if "callback" in str(error):
            raise ContractError(
                f"`{name.split('_')[0]}` calls back to the host (jax.debug.print, pure_callback, io_callback): "
                "remove it, programs must be pure"
            ) from error
        raise
    except RuntimeError as error:
        if "No supported GPU devices" not in str(error):  # what Pallas says where it would write a Triton kernel
            raise
        raise ContractError(
            f"`{name.split('_')[0]}` calls a Pallas kernel, which is not allowed on {platform}, as nothing keeps it "
            "within its arrays: use it on a TPU only, and jax.numpy or `autoresearch_jax.kernels` here"
        ) from error


def _flat_specs(state_sharding: Any, treedef: Any) -> list[PartitionSpec]:
    if state_sharding is None:
        return [PartitionSpec()] * treedef.num_leaves
    specs, spec_treedef = jax.tree.flatten(state_sharding, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
    if spec_treedef != treedef or not all(isinstance(spec, PartitionSpec) for spec in specs):
        raise ContractError("state_sharding must have the structure of the state, with a PartitionSpec at each leaf")
    return specs


def _key_impl(struct: jax.ShapeDtypeStruct) -> Any:
    if not jnp.issubdtype(struct.dtype, jax.dtypes.prng_key):
        return None
    impls = []  # only an array of keys, if an abstract one, has an implementation
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), struct)
    return impls[0]


def _path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _array_words(shape_and_dtype: tuple[tuple[int, ...], Any] | None) -> str:
    if shape_and_dtype is None:
        return "nothing"
    shape, dtype = shape_and_dtype
    return f"{dtype}[{','.join(map(str, shape))}]"


def _describe_failure(error: BaseException, source_path: Path) -> str:
    """One line: the place in the candidate's file, the exception's type and message."""
    if isinstance(error, ContractError):
        return f"{source_path.name}: {error}"
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"{source_path.name}:{error.lineno}: SyntaxError: {error.msg}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(source_path)]
    place = f"{source_path.name}:{lines[-1]}: " if lines else ""
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def main(argv: Sequence[str]) -> int:
    request_path, out_dir = Path(argv[0]), Path(argv[1])
    request = json.loads(request_path.read_text())
    source_path = Path(request["source"])
    task = TaskSpec(**{**request["task"], "vocab_sizes": tuple(request["task"]["vocab_sizes"])})
    axes = request["mesh"]
    mesh = jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=jax.devices()
    )
    fix_sources(request["clock"], request["seed"])
    print(TRACE_BEGINS, file=sys.stderr, flush=True)
    try:
        with seen_by_jax(task.device_kind):
            trace(source_path, task, mesh, request["judge_batch_sizes"], out_dir)
    except (Exception, SystemExit) as error:
        failure = {
            "kept_contract": not isinstance(error, ContractError),
            "reason": _describe_failure(error, source_path)[:MAX_REASON_CHARACTERS],
        }
        (out_dir / FAILURE_FILE).write_text(json.dumps(failure))
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
