"""The traced programs of a candidate: read from disk, checked, hashed, compiled. Never believed, always verified."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.extend import mlir
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import chlo, sdy, stablehlo
from jax.sharding import Mesh
from jaxlib.mlir.passmanager import PassManager

from autoresearch_jax.lm.trace import SIGNATURE_FILE

MAX_CONSTANT_BYTES = 1 << 20  # embedded in one program: a table of the answers must not fit

# Custom calls that only compute, by platform: sharding marks, linear algebra, attention, kernels for a TPU.
_ALLOWED_ANYWHERE = "Sharding|SPMDFullToShardShape|SPMDShardToFullShape|annotate_device_placement|mhlo.topk"
ALLOWED_CUSTOM_CALLS = {
    "cpu": re.compile(rf"{_ALLOWED_ANYWHERE}|lapack_[a-z]+_ffi"),
    "cuda": re.compile(
        rf"{_ALLOWED_ANYWHERE}|cusolver_[a-z]+_ffi|cu_threefry2x32_ffi|cu_lu_pivots_to_permutation"
        r"|__cudnn\$fmha[A-Za-z]+"
    ),
    "tpu": re.compile(
        rf"{_ALLOWED_ANYWHERE}|tpu_custom_call|ApproxTopK|Qr|Eigh|LuDecomposition"
        "|ProductOfElementaryHouseholderReflectors"
    ),
}

# What differs between equal programs: the module's name and the names of its results (key paths of the state).
_NAMES = re.compile(r'^module @\S+|jax\.result_info = "[^"]*",? ?|jax\.arg_info = "[^"]*",? ?', re.MULTILINE)


class ProgramError(Exception):
    """The traced programs break a rule; one line that tells which, for people and proposers."""


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
      program_hash: SHA-256 of the canonical programs; equal hashes are the same candidate.
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
    """Reads and checks what `trace.py` wrote.

    Raises:
      ProgramError: something breaks a rule.
    """
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
            program_hash="",
        )
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ProgramError(f"the traced programs cannot be read: {type(error).__name__}: {error}") from error
    if platform not in ALLOWED_CUSTOM_CALLS:
        raise ProgramError(f"the programs are for the unknown platform {platform!r}")
    _check_signatures(programs)
    canonical = [f"vocab_size={programs.vocab_size}"]
    for name, exported in _named(programs):
        canonical.append(f"{name}\n{_canonical_text(exported, name, platform)}")
    canonical += [f"{step.from_progress} {step.batch_shape}" for step in programs.steps]
    program_hash = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    return Programs(**{**programs.__dict__, "program_hash": program_hash})


def check_asked(programs: Programs, request: Mapping[str, Any]) -> None:
    """Raises ProgramError unless the programs are for what `trace.py` was asked for in `request`."""
    task = request["task"]
    asked = (task["platform"], request["mesh"], task["sequence_length"], sorted(request["judge_batch_sizes"]))
    made = (programs.platform, programs.mesh_axes, programs.sequence_length, sorted(programs.logits))
    if made != asked:
        raise ProgramError(f"the programs are for platform, mesh, length and batches {made}, asked for was {asked}")
    if programs.vocab_size not in task["vocab_sizes"]:
        raise ProgramError(f"vocab_size {programs.vocab_size} is not offered by the dataset")


def compile_program(exported: export.Exported, mesh: Mesh, *, donate: bool = False) -> Any:
    """Compiles one program for the devices of `mesh`; the result is called as the program is, and never recompiles."""
    args, _ = jax.tree.unflatten(exported.in_tree, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in exported.in_avals])
    in_shardings, _ = jax.tree.unflatten(exported.in_tree, exported.in_shardings_jax(mesh))
    out_shardings = jax.tree.unflatten(exported.out_tree, exported.out_shardings_jax(mesh))
    jitted = jax.jit(
        exported.call,
        in_shardings=in_shardings,
        out_shardings=out_shardings,
        donate_argnums=(0,) if donate else (),
    )
    return jitted.lower(*args).compile()


def _read(folder: Path, name: str) -> export.Exported:
    path = folder / f"{name}.export"
    data = bytearray(path.read_bytes())
    try:
        return export.deserialize(data)
    except Exception as error:  # a damaged file fails inside flatbuffers, in more ways than anybody lists
        raise ProgramError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _named(programs: Programs) -> Iterator[tuple[str, export.Exported]]:
    yield "init", programs.init
    for step in programs.steps:
        yield "step", step.exported
    for exported in programs.logits.values():
        yield "logits", exported


def _check_signatures(programs: Programs) -> None:
    """Raises ProgramError unless the programs fit each other and the shapes they claim."""
    leaves = _shapes(programs.init.out_avals)
    if len(programs.leaf_names) != len(leaves) or not set(programs.read_leaves) <= set(range(len(leaves))):
        raise ProgramError("the signature does not fit the programs: the leaves of the state differ")
    if not programs.steps or not programs.logits:
        raise ProgramError("the programs lack a `step` or `logits`")
    begins = [step.from_progress for step in programs.steps]
    if begins[0] != 0 or not all(before < begin < 1 for before, begin in itertools.pairwise(begins)):
        raise ProgramError(f"the phases begin at {begins}, not at rising progress from 0 to below 1")
    num_devices = math.prod(programs.mesh_axes.values())
    for name, exported in _named(programs):
        if exported.platforms != (programs.platform,) or exported.nr_devices != num_devices:
            made = f"{exported.nr_devices} devices of {', '.join(exported.platforms)}"
            raise ProgramError(f"`{name}` is for {made}, not for {num_devices} of {programs.platform}")
    _check_program("init", programs.init, "([2]uint32)", "([" + ",".join(leaves) + "])")
    state = "[" + ",".join(leaves) + "]"
    for step in programs.steps:
        rows, length = step.batch_shape
        if "loss" not in step.metrics:
            raise ProgramError('`step` returns no metric "loss"')
        metrics = "[" + ",".join("[]float32" for _ in step.metrics) + "]"
        inputs = f"({state},[{rows},{length}]int32,[]float32)"
        _check_program("step", step.exported, inputs, f"({state},{metrics})")
    read = "[" + ",".join(leaves[i] for i in programs.read_leaves) + "]"
    for rows, exported in programs.logits.items():
        shape = (rows, programs.sequence_length, programs.vocab_size)
        dtype = exported.out_avals[0].dtype if exported.out_avals else None
        if dtype is None or not jax.numpy.issubdtype(dtype, jax.numpy.floating):
            raise ProgramError(f"`logits` returns {dtype}, not a floating point array")
        inputs = f"({read},[{rows},{programs.sequence_length}]int32)"
        _check_program("logits", exported, inputs, f"({_shape_words(shape, dtype)})")


def _check_program(name: str, exported: export.Exported, inputs: str, outputs: str) -> None:
    args, kwargs = jax.tree.unflatten(exported.in_tree, _shapes(exported.in_avals))
    results = jax.tree.unflatten(exported.out_tree, _shapes(exported.out_avals))
    is_sequence = isinstance(results, tuple)
    if kwargs or _structure(args) != inputs or _structure(results if is_sequence else (results,)) != outputs:
        raise ProgramError(f"`{name}` has not the signature ({inputs}) -> ({outputs})")
    if exported.ordered_effects or exported.unordered_effects:
        raise ProgramError(f"`{name}` has side effects: programs must be pure")


def _structure(tree: Any) -> str:
    """The nesting of tuples and lists around shapes, as text: "([[2]float32,[]int32],[8,65]int32)"."""
    if isinstance(tree, str):
        return tree
    left, right = ("(", ")") if isinstance(tree, tuple) else ("[", "]")
    return left + ",".join(map(_structure, tree)) + right


def _shapes(avals: Sequence[Any]) -> list[str]:
    return [_shape_words(aval.shape, aval.dtype) for aval in avals]


def _shape_words(shape: Sequence[int], dtype: Any) -> str:
    return f"[{','.join(map(str, shape))}]{dtype}"


def _canonical_text(exported: export.Exported, name: str, platform: str) -> str:
    """The program's text without what names and source locations leave in it, after checking its operations."""
    custom_calls: set[str] = set()
    constant_bytes = 0

    def visit(operation: ir.Operation) -> ir.WalkResult:  # what it raises would lose its type on the way
        nonlocal constant_bytes
        if operation.name == "stablehlo.custom_call":
            custom_calls.add(ir.StringAttr(operation.attributes["call_target_name"]).value)
        elif operation.name == "stablehlo.constant":
            constant_bytes += _constant_bytes(operation.attributes["value"])
        return ir.WalkResult.ADVANCE

    with ir.Context() as context:
        for dialect in (stablehlo, chlo, sdy):
            dialect.register_dialect(context)
        try:
            module = mlir.deserialize_portable_artifact(exported.mlir_module_serialized)
        except (ValueError, RuntimeError) as error:
            raise ProgramError(f"`{name}` holds no StableHLO: {error}") from error
        module.operation.walk(visit)
        forbidden = [call for call in custom_calls if not ALLOWED_CUSTOM_CALLS[platform].fullmatch(call)]
        if forbidden:
            raise ProgramError(f"`{name}` uses custom calls not allowed on {platform}: {', '.join(sorted(forbidden))}")
        if constant_bytes > MAX_CONSTANT_BYTES:
            raise ProgramError(
                f"`{name}` embeds {constant_bytes:,} bytes of constants, more than {MAX_CONSTANT_BYTES:,}: "
                "compute them inside the function or keep them in the state"
            )
        PassManager.parse("builtin.module(inline,symbol-dce,canonicalize,cse)").run(module.operation)
        return _NAMES.sub("", module.operation.get_asm(enable_debug_info=False))


def _constant_bytes(value: ir.Attribute) -> int:
    """Bytes that a constant tells; one number for all of an array counts once, but counts: a table can be in pieces."""
    shaped = ir.ShapedType(value.type)
    element = shaped.element_type
    bits = element.width if hasattr(element, "width") else 64
    is_splat = isinstance(value, ir.DenseElementsAttr) and value.is_splat
    return (1 if is_splat else math.prod(shaped.shape)) * max(bits, 8) // 8


def _optional_float(value: Any) -> float | None:
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return None if value is None else float(value)
