"""One hash for programs that compute the same, however they are written.

A value's digest follows from its operation and the digests of its operands (a Merkle hash), so names, the order of
definitions, unused code and repeated subexpressions do not change it. The training state and the values that a loop
carries have no order: each part is coloured by its initial value and by its successor, until no colour splits any more
(partition refinement, as in Moore's minimisation of automata). Parts of one colour always hold equal values, and two
programs with the same colours, one round after the last split, compute the same: a candidate that only renames its
state is proven equal.

MLIR's own passes (inline, canonicalize, cse, symbol-dce) do not replace this: they keep the written order of
independent operations, of the state and of a loop's values.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from jax.extend.mlir import ir

from autoresearch_jax.tasks.lm.dialects import SYMBOL, attribute_names
from autoresearch_jax.tasks.lm.operations import constant_text

HASH_VERSION = 2  # increment it when hashes change
MAX_OPERATIONS = 3_000_000  # read in one module, its functions inlined; the default's step has 3,000
_SHARDING_ATTRIBUTES = ("sdy.sharding", "mhlo.sharding")


class TooManyOperationsError(Exception):
    """A module has too many operations when its calls are inlined."""


@dataclass
class _Block:
    """Operations in order. Values are numbered within their function."""

    arguments: list[int]
    argument_types: list[str]
    operations: list["_Operation"] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)


@dataclass
class _Operation:
    name: str
    label: str  # attributes and types of results
    operands: list[int]
    results: list[int]
    blocks: list[_Block]  # of its regions
    captured: list[int]  # values from outside that its regions read
    callee: str | None


class Dataflow:
    """The functions of one StableHLO module, ready to be hashed with any digests for the inputs of `main`."""

    def __init__(self, module: ir.Module) -> None:
        self._functions: dict[str, _Block] = {}
        self._results: dict[tuple[object, ...], list[str]] = {}
        self._num_operations = 0
        surroundings: list[str] = []
        for view in module.body.operations:
            operation = view.operation
            if operation.name == "func.func":
                name = ir.StringAttr(operation.attributes["sym_name"]).value
                block = self._functions[name] = _Reader().block(operation.regions[0].blocks[0])
                if name == "main":
                    self.argument_shardings = _shardings(operation, "arg_attrs", len(block.arguments))
                    self.result_shardings = _shardings(operation, "res_attrs", len(block.returned))
            else:
                surroundings.append(str(operation.get_asm(enable_debug_info=False)))
        self.surroundings = digest(*sorted(surroundings))  # the mesh of the shardings

    def results(self, arguments: Sequence[str]) -> list[str]:
        """Digests of the results of `main`, given those of its arguments."""
        return self._call("main", list(arguments), 0)

    def _call(self, name: str, arguments: list[str], depth: int) -> list[str]:
        key = (name, depth, *arguments)
        if key not in self._results:
            block = self._functions[name]
            self._results[key] = self._run(block, arguments, {}, depth)
        return self._results[key]

    def _run(self, block: _Block, arguments: list[str], outside: dict[int, str], depth: int) -> list[str]:
        self._num_operations += len(block.operations)
        if self._num_operations > MAX_OPERATIONS:
            raise TooManyOperationsError(f"it has more than {MAX_OPERATIONS:,} operations")
        values = {**outside, **dict(zip(block.arguments, arguments, strict=True))}
        for operation in block.operations:
            operands = [values[i] for i in operation.operands]
            if operation.callee is not None:
                results = self._call(operation.callee, operands, depth)
            elif operation.blocks:
                captured = {i: values[i] for i in operation.captured}
                results = self._with_regions(operation, operands, captured, depth + 1)
            elif operation.name == "stablehlo.optimization_barrier":  # each result is its operand, after all of them
                together = digest(*sorted(operands))
                results = [digest(operation.name, together, operand) for operand in operands]
            else:
                whole = digest(operation.name, self._label(operation), *operands)
                results = [digest(whole, str(i)) for i in range(len(operation.results))]
            values.update(zip(operation.results, results, strict=True))
        return [values[i] for i in block.returned]

    def _with_regions(
        self, operation: _Operation, operands: list[str], captured: dict[int, str], depth: int
    ) -> list[str]:
        key = (id(operation), depth, *operands, *captured.values())
        if key not in self._results:
            if operation.name == "stablehlo.while":
                self._results[key] = self._loop(operation, operands, captured, depth)
            else:
                regions = [digest(*self._run(b, _inputs(b, depth), captured, depth)) for b in operation.blocks]
                whole = digest(operation.name, self._label(operation), *operands, "regions", *regions)
                self._results[key] = [digest(whole, str(i)) for i in range(len(operation.results))]
        return self._results[key]

    def _loop(self, operation: _Operation, operands: list[str], captured: dict[int, str], depth: int) -> list[str]:
        condition, body = operation.blocks
        start = [digest("carried", str(depth), operand) for operand in operands]
        carried = refine(start, lambda colours: self._run(body, colours, captured, depth))
        goes_on = self._run(condition, carried, captured, depth)
        loop = digest(operation.name, *goes_on, "carried", *sorted(carried))
        return [digest(loop, colour) for colour in carried]

    def _label(self, operation: _Operation) -> str:
        """The label, with what a called function computes in place of its name."""

        def meaning(match: re.Match[str]) -> str:
            name = match["quoted"] or match["plain"]
            block = self._functions.get(name)
            return match[0] if block is None else digest(*self._call(name, _inputs(block, 0), 0))

        return SYMBOL.sub(meaning, operation.label)


class _Reader:
    """Turns the blocks of one function into ours, with its values numbered."""

    def __init__(self) -> None:
        self._numbers: dict[ir.Value, int] = {}

    def block(self, block: ir.Block) -> _Block:
        arguments = list(block.arguments)
        ours = _Block([self._number(a) for a in arguments], [str(a.type) for a in arguments])
        for view in block.operations:
            operation = view.operation
            if operation.name in ("func.return", "stablehlo.return", "sdy.return"):
                ours.returned = [self._number(value) for value in operation.operands]
            else:
                ours.operations.append(self._operation(operation))
        return ours

    def _operation(self, operation: ir.Operation) -> _Operation:
        attributes: dict[str, str] = {}
        callee = None
        if operation.name == "func.call":
            callee = ir.FlatSymbolRefAttr(operation.attributes["callee"]).value
        elif operation.name == "stablehlo.constant":
            attributes["value"] = constant_text(operation)
        else:
            attributes = {name: str(operation.attributes[name]) for name in attribute_names(operation)}
        operands = [self._number(value) for value in operation.operands]
        first_inside = len(self._numbers)
        blocks = [self.block(block) for region in operation.regions for block in region.blocks]
        captured = sorted({i for block in blocks for i in _read_by(block) if i < first_inside})
        types = [str(result.type) for result in operation.results]
        return _Operation(
            name=operation.name,
            label=repr((sorted(attributes.items()), types)),
            operands=operands,
            results=[self._number(result) for result in operation.results],
            blocks=blocks,
            captured=captured,
            callee=callee,
        )

    def _number(self, value: ir.Value) -> int:
        return self._numbers.setdefault(value, len(self._numbers))


def refine(colours: Sequence[str], successors: Callable[[list[str]], Sequence[str]]) -> list[str]:
    """Refines colours by the digests of their successors until none splits any more, and once again."""
    current = list(colours)
    while True:
        refined = [digest(old, new) for old, new in zip(current, successors(current), strict=True)]
        is_stable = len(set(refined)) == len(set(current))
        current = refined
        if is_stable:
            return current


def digest(*parts: str) -> str:
    """SHA-256 of a sequence of texts, in hexadecimal."""
    hasher = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        hasher.update(len(encoded).to_bytes(8, "little"))
        hasher.update(encoded)
    return hasher.hexdigest()


def _inputs(block: _Block, depth: int) -> list[str]:
    """Digests of arguments by their positions."""
    return [digest("argument", str(depth), str(i), kind) for i, kind in enumerate(block.argument_types)]


def _read_by(block: _Block) -> Iterator[int]:
    yield from block.returned
    for operation in block.operations:
        yield from operation.operands
        yield from operation.captured


def _shardings(function: ir.Operation, attribute: str, count: int) -> list[str]:
    """How each argument or result of a function lies on the mesh."""
    if attribute not in function.attributes:
        return [""] * count
    entries = [ir.DictAttr(entry) for entry in ir.ArrayAttr(function.attributes[attribute])]
    return ["".join(str(entry[name]) for name in _SHARDING_ATTRIBUTES if name in entry) for entry in entries]
