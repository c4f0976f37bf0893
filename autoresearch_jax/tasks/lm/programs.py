"""The traced programs of a candidate: read from disk, checked, hashed, compiled."""

import itertools
import json
import math
import os
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoresearch_jax.files import disk_error
from autoresearch_jax.sanitize import clean_line, quoted
from autoresearch_jax.tasks.lm.canonical import HASH_VERSION, Dataflow, TooManyOperationsError, digest, refine
from autoresearch_jax.tasks.lm.config import Caps
from autoresearch_jax.tasks.lm.custom_calls import check_custom_calls
from autoresearch_jax.tasks.lm.device import training_options
from autoresearch_jax.tasks.lm.dialects import OperationError, check_depth
from autoresearch_jax.tasks.lm.operations import (
    ALLOWED_CUSTOM_CALLS,
    Embedded,
    check_operations,
    stablehlo_module,
)
from autoresearch_jax.tasks.lm.trace import METRIC_NAME, METRIC_NAME_RULE, SIGNATURE_FILE
from autoresearch_jax.types import HASHED_BY

_ASKED = "/jax/core/compile/backend_compile_duration"  # of programs found in the cache, too
_FOUND = "/jax/compilation_cache/cache_hits"

# What every backend computes with and Orbax saves; 64 bits would need another mode of JAX.
_INTEGERS = ("bool", "int4", "int8", "int16", "int32", "uint8", "uint16", "uint32")
_FLOATS = ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float32", "complex64")
STATE_DTYPES = (*_INTEGERS, *_FLOATS)
MAX_MODEL_FLOPS = 1e18  # a token


class CompileWatch:
    """Counts the programs that JAX requests from XLA in all threads while it is entered."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._counting = False
        self._lock = threading.Lock()

    @property
    def asked(self) -> int:
        return self._counts[_ASKED]

    @property
    def compiled(self) -> int:
        """Those that were not in the persistent cache."""
        return self._counts[_ASKED] - self._counts[_FOUND]

    def __enter__(self) -> "CompileWatch":
        self._counting = True
        jax.monitoring.register_event_duration_secs_listener(self._count)
        jax.monitoring.register_event_listener(self._count)
        return self

    def __exit__(self, *exception: object) -> None:
        self._counting = False  # JAX has no public call that removes one listener

    def _count(self, event: str, *details: Any, **more: Any) -> None:
        with self._lock:
            self._counts[event] += self._counting


class BadProgramError(Exception):
    """The traced programs break a rule; one line."""


@dataclass(frozen=True)
class StepProgram:
    """`step` of one phase.

    Attributes:
      from_progress: the phase begins at this progress.
      batch_shape: (rows, context + 1) of its tokens.
      metrics: names of the float32 scalars it returns, in order; "loss" is among them.
      exported: (leaves, int32[rows, context + 1], float32[]) -> (leaves, metrics).
    """

    from_progress: float
    batch_shape: tuple[int, int]
    metrics: tuple[str, ...]
    exported: export.Exported


@dataclass(frozen=True)
class Programs:
    """A candidate as it will be executed.

    Attributes:
      init: uint32[2] key data -> leaves, the flat list of the state's arrays.
      steps: one for each phase.
      logits: rows of the batch -> program (read leaves, int32[rows, T]) -> float[rows, T, vocab_size].
      leaf_names: key path of each leaf.
      read_leaves: indices of the leaves that `logits` reads.
      constant_bytes: bytes of the constants that `init`, all steps and `logits` embed together.
      kernel_bytes: of the payloads of their custom calls, in the same way.
      program_hash: SHA-256 of what the programs compute (see `canonical.py`); equal hashes are the same candidate.
    """

    init: export.Exported
    steps: tuple[StepProgram, ...]
    logits: dict[int, export.Exported]
    vocab_size: int
    sequence_length: int
    platform: str
    mesh_axes: dict[str, int]
    leaf_names: tuple[str, ...]
    read_leaves: tuple[int, ...]
    model_flops_per_token: float | None
    constant_bytes: int
    kernel_bytes: int
    program_hash: str

    @property
    def num_params(self) -> int:
        """Number of array elements that `logits` reads."""
        return sum(math.prod(self.init.out_avals[i].shape) for i in self.read_leaves)

    @property
    def state_bytes(self) -> int:
        """Bytes of the whole training state."""
        return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in self.init.out_avals)


def load_programs(folder: Path) -> Programs:
    """Reads and checks what `trace.py` wrote; raises BadProgramError if something breaks a rule."""
    try:
        signature = json.loads((folder / SIGNATURE_FILE).read_text())
        platform = str(signature["platform"])
        programs = Programs(
            init=_read(folder, "init"),
            steps=tuple(
                StepProgram(
                    from_progress=float(phase["from_progress"]),
                    batch_shape=(int(phase["batch_shape"][0]), int(phase["batch_shape"][1])),
                    metrics=tuple(map(str, phase["metrics"])),
                    exported=_read(folder, f"step_{index}"),
                )
                for index, phase in enumerate(signature["phases"])
            ),
            logits={int(rows): _read(folder, f"logits_{int(rows)}") for rows in signature["judge_batch_sizes"]},
            vocab_size=int(signature["vocab_size"]),
            sequence_length=int(signature["sequence_length"]),
            platform=platform,
            mesh_axes={str(name): int(size) for name, size in signature["mesh"].items()},
            leaf_names=tuple(map(str, signature["leaves"])),
            read_leaves=tuple(map(int, signature["read_leaves"])),
            model_flops_per_token=_optional_float(signature["model_flops_per_token"]),
            constant_bytes=0,
            kernel_bytes=0,
            program_hash="",
        )
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadProgramError(f"the traced programs cannot be read: {type(error).__name__}: {error}") from error
    if platform not in ALLOWED_CUSTOM_CALLS:
        raise BadProgramError(f"the programs are for the unknown platform {quoted(platform, 20)}")
    _check_signatures(programs)
    try:
        embedded, program_hash = _read_operations(programs)
    except TooManyOperationsError as error:
        raise BadProgramError(f"a program is too large: {error}, all calls counted") from error
    return replace(programs, **embedded._asdict(), program_hash=program_hash)


def check_traced(folder: Path, request: Mapping[str, Any], caps: Caps) -> dict[str, Any]:
    """The worker's event: "checked" with hash and facts, or "rejected" with the reason."""
    try:
        programs = load_programs(folder)
        check_asked(programs, request, caps)
    except BadProgramError as error:
        return {"event": "rejected", "reason": clean_line(str(error))}
    except Exception as error:  # a file may be made to fail in any way
        if disk_error(error) is not None:
            raise
        traceback.print_exc()
        reason = f"the traced programs cannot be read: {type(error).__name__}: {quoted(str(error))}"
        return {"event": "rejected", "reason": reason}
    rows, length = programs.steps[0].batch_shape
    return {
        "event": "checked",
        "program_hash": programs.program_hash,
        "facts": {
            HASHED_BY: f"{HASH_VERSION}, jax {jax.__version__}",
            "num_params": programs.num_params,
            "vocab_size": programs.vocab_size,
            "state_bytes": programs.state_bytes,
            "constant_bytes": programs.constant_bytes,
            "kernel_bytes": programs.kernel_bytes,
            "batch_tokens": rows * (length - 1),
        },
    }


def check_asked(programs: Programs, request: Mapping[str, Any], caps: Caps) -> None:
    """Raises BadProgramError unless the programs are what `trace.py` was asked for, and within the caps."""
    task = request["task"]
    asked = (task["platform"], request["mesh"], task["sequence_length"], sorted(request["judge_batch_sizes"]))
    made = (programs.platform, programs.mesh_axes, programs.sequence_length, sorted(programs.logits))
    if made != asked:
        raise BadProgramError(f"the programs are for platform, mesh, length and batches {made}, asked for was {asked}")
    if programs.vocab_size not in task["vocab_sizes"]:
        raise BadProgramError(f"vocab_size {programs.vocab_size} is not offered by the dataset")
    if programs.constant_bytes > caps.constant_bytes:
        raise BadProgramError(
            f"the programs embed {programs.constant_bytes:,} bytes of constants, more than {caps.constant_bytes:,} "
            "(--max_constant_bytes): compute arrays inside the functions, from few numbers"
        )
    if programs.kernel_bytes > caps.kernel_bytes:
        raise BadProgramError(
            f"the programs' kernels have {programs.kernel_bytes:,} bytes, more than {caps.kernel_bytes:,} "
            "(--max_kernel_bytes): use fewer or smaller ones, and loops in place of repeated lines"
        )


def make_mesh(axes: dict[str, int]) -> Mesh:
    """A mesh over this process's devices; axis types are Auto, since `jax.make_mesh` defaults to explicit ones."""
    size = int(np.prod(list(axes.values())))
    devices = jax.devices()[:size]
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices)


def try_devices() -> None:
    """Runs a program of ours as a candidate's are run; raises what would keep any of them from running here.

    Such as a variable that forbids transfers to the device. Takes hold of the devices.
    """
    devices = jax.devices()
    mesh = make_mesh({"data": len(devices), "model": 1})
    by_rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    one, ones = np.float32(1), np.ones(len(devices), np.float32)
    add = jax.jit(jnp.add, in_shardings=(by_rows, whole), out_shardings=by_rows, donate_argnums=0)
    put = jax.make_array_from_callback(ones.shape, by_rows, lambda index: ones[index])
    total = add.lower(put, one).compile()(put, one)
    for shard in total.addressable_shards:  # of several hosts each looks at its own
        if not np.array_equal(np.asarray(shard.data), [2]):
            raise RuntimeError(f"the devices computed 1 + 1 = {np.asarray(shard.data)}")


def compile_program(exported: export.Exported, mesh: Mesh, *, donate: bool = False) -> Any:
    """Compiles a program that trains for the devices of `mesh`."""
    args, _ = jax.tree.unflatten(exported.in_tree, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in exported.in_avals])
    in_shardings, _ = jax.tree.unflatten(exported.in_tree, exported.in_shardings_jax(mesh))
    out_shardings = jax.tree.unflatten(exported.out_tree, exported.out_shardings_jax(mesh))
    jitted = jax.jit(
        exported.call,
        in_shardings=in_shardings,
        out_shardings=out_shardings,
        donate_argnums=(0,) if donate else (),
    )
    (platform,) = exported.platforms
    return jitted.lower(*args).compile(compiler_options=training_options(platform, os.environ))


def _read(folder: Path, name: str) -> export.Exported:
    path = folder / f"{name}.export"
    data = bytearray(path.read_bytes())
    try:
        return export.deserialize(data)
    except Exception as error:  # flatbuffers documents no errors for damaged files
        raise BadProgramError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _named(programs: Programs) -> Iterator[tuple[str, export.Exported]]:
    yield "init", programs.init
    for step in programs.steps:
        yield "step", step.exported
    for exported in programs.logits.values():
        yield "logits", exported


def _check_signatures(programs: Programs) -> None:
    """Raises BadProgramError unless the programs fit each other and the shapes they claim."""
    leaves = _shapes(programs.init.out_avals)
    if len(programs.leaf_names) != len(leaves) or not set(programs.read_leaves) <= set(range(len(leaves))):
        raise BadProgramError("the signature does not fit the programs: the leaves of the state differ")
    if not programs.steps or not programs.logits:
        raise BadProgramError("the programs lack a `step` or `logits`")
    begins = [step.from_progress for step in programs.steps]
    if begins[0] != 0 or not all(before < begin < 1 for before, begin in itertools.pairwise(begins)):
        raise BadProgramError(f"the phases begin at {begins}, not at rising progress from 0 to below 1")
    num_devices = math.prod(programs.mesh_axes.values())
    for name, exported in _named(programs):
        if exported.platforms != (programs.platform,) or exported.nr_devices != num_devices:
            made = f"{exported.nr_devices} devices of {', '.join(exported.platforms)}"
            raise BadProgramError(f"`{name}` is for {made}, not for {num_devices} of {programs.platform}")
        if not all(isinstance(size, int) for aval in (*exported.in_avals, *exported.out_avals) for size in aval.shape):
            raise BadProgramError(f"`{name}` has shapes that are not numbers")
    for leaf, aval in zip(programs.leaf_names, programs.init.out_avals, strict=True):
        if str(aval.dtype) not in STATE_DTYPES:
            allowed = ", ".join(STATE_DTYPES)
            raise BadProgramError(f"the state's {quoted(leaf, 80)} has dtype {aval.dtype}: use one of {allowed}")
    _check_program("init", programs.init, ("[2]uint32",), leaves)
    for step in programs.steps:
        rows, length = step.batch_shape
        if "loss" not in step.metrics or len(set(step.metrics)) != len(step.metrics):
            raise BadProgramError('`step` returns no metric "loss", or one name twice')
        for metric in step.metrics:
            if not METRIC_NAME.fullmatch(metric):
                raise BadProgramError(f"a metric of `step` is called {quoted(metric, 80)}: {METRIC_NAME_RULE}")
        inputs = (leaves, f"[{rows},{length}]int32", "[]float32")
        _check_program("step", step.exported, inputs, (leaves, ["[]float32"] * len(step.metrics)))
    read = [leaves[i] for i in programs.read_leaves]
    for rows, exported in programs.logits.items():
        length = programs.sequence_length
        dtype = exported.out_avals[0].dtype if exported.out_avals else None
        if dtype is None or not jax.numpy.issubdtype(dtype, jax.numpy.floating):
            raise BadProgramError(f"`logits` returns {dtype}, not a floating point array")
        outputs = f"[{rows},{length},{programs.vocab_size}]{dtype}"
        _check_program("logits", exported, (read, f"[{rows},{length}]int32"), outputs)


def _check_program(name: str, exported: export.Exported, inputs: tuple[Any, ...], outputs: Any) -> None:
    """Raises BadProgramError unless a program is pure and has this signature, of shapes in tuples and lists."""
    arguments = jax.tree.unflatten(exported.in_tree, _shapes(exported.in_avals))
    results = jax.tree.unflatten(exported.out_tree, _shapes(exported.out_avals))
    if arguments != (inputs, {}) or results != outputs:
        raise BadProgramError(f"`{name}` has not the signature {inputs} -> {outputs}")
    if exported.ordered_effects or exported.unordered_effects:
        raise BadProgramError(f"`{name}` has side effects: programs must be pure")


def _shapes(avals: Sequence[Any]) -> list[str]:
    """Such as "[8,65]int32"."""
    return [f"[{','.join(map(str, aval.shape))}]{aval.dtype}" for aval in avals]


def _read_operations(programs: Programs) -> tuple[Embedded, str]:
    """Checks every operation; returns what the programs carry with them and the program hash."""
    flows: list[Dataflow] = []
    sizes: list[Embedded] = []
    for name, exported in _named(programs):
        try:
            with stablehlo_module(exported.mlir_module_serialized) as module:
                check_depth(module)
                sizes.append(check_operations(module, programs.platform))
                check_custom_calls(module, programs.platform)
                flows.append(Dataflow(module))
        except OperationError as error:
            raise BadProgramError(f"`{name}`: {error}") from error
    num_steps = len(programs.steps)
    # `logits` is one function, traced for several sizes of a batch
    embedded = Embedded(*(sum(size[: 1 + num_steps]) + max(size[1 + num_steps :]) for size in zip(*sizes, strict=True)))
    return embedded, _program_hash(programs, flows[0], flows[1 : 1 + num_steps], flows[1 + num_steps :])


def _program_hash(programs: Programs, init: Dataflow, steps: Sequence[Dataflow], logits: Sequence[Dataflow]) -> str:
    """Hash of what the programs compute, independent of the names and order of the state's parts."""
    read = set(programs.read_leaves)
    start = [
        digest(value, sharding, str(index in read))
        for index, (value, sharding) in enumerate(
            zip(init.results(["key"][: len(init.argument_shardings)]), init.result_shardings, strict=True)
        )
    ]

    def run(flow: Dataflow, step: StepProgram, colours: Sequence[str]) -> list[str]:
        inputs = [*colours, "tokens", "progress"]
        return flow.results([inputs[i] for i in step.exported.module_kept_var_idx])

    def successors(colours: list[str]) -> list[str]:
        after = [run(flow, step, colours)[: len(colours)] for flow, step in zip(steps, programs.steps, strict=True)]
        return [digest(*values) for values in zip(*after, strict=True)]

    colours = refine(start, successors)
    parts = [f"vocab_size={programs.vocab_size}", *(flow.surroundings for flow in (init, *steps, *logits))]
    parts += ["state", *sorted(colours)]
    for flow, step in zip(steps, programs.steps, strict=True):
        metrics = dict(zip(step.metrics, run(flow, step, colours)[len(colours) :], strict=True))
        loss = metrics.pop("loss")
        parts += [f"step from {step.from_progress} on {step.batch_shape}", loss, *sorted(metrics.values())]
    for flow, (rows, exported) in zip(logits, programs.logits.items(), strict=True):
        inputs = [*(colours[i] for i in programs.read_leaves), "tokens"]
        parts += [f"logits of {rows}", *flow.results([inputs[i] for i in exported.module_kept_var_idx])]
    return digest(*parts)


def _optional_float(value: Any) -> float | None:
    if value is not None and not 0 < value < MAX_MODEL_FLOPS:
        raise ValueError(f"model_flops_per_token is {value}")
    return None if value is None else float(value)
