"""The contract of a training file as text for agents: read from the source of `contract.py` and of the kernels."""

import ast
import importlib.metadata
import platform
from collections.abc import Iterator
from importlib import resources

from autoresearch_jax.tasks.lm.config import COMPILE_SLOWDOWN, Caps, TimeLimits
from autoresearch_jax.types import Budget

PACKAGE = "autoresearch_jax"
LIBRARIES = ("jax", "flax", "optax", "numpy")  # whose versions are told: what training files are written with
# What `kernels` offers to training files, by module; the rest of it is each function's own.
KERNELS = {
    "attention": ("causal_attention",),
    "cross_entropy": ("softcapped_cross_entropy",),
    "normalization": ("rms_norm",),
    "sharding": ("state_specs", "gathered", "mean_over_micro_batches"),
}
_TEXT = """\
`{name}` defines `build(task: TaskSpec, mesh: jax.sharding.Mesh) -> Experiment`. It is executed once, without data,
clock or network, to be traced into programs; only these run. It may import {versions} ({python}), their dependencies,
the standard library, `autoresearch_jax.contract` and `autoresearch_jax.kernels`. `autoresearch_jax/contract.py`:

```python
{contract}
```

What `autoresearch_jax.kernels` offers:

{kernels}

Limits:

{limits}"""


def contract_text(name: str, caps: Caps, limits: TimeLimits, budget: Budget) -> str:
    """The contract of a training file of that name, in Markdown without headings."""
    versions = ", ".join(f"{library} {importlib.metadata.version(library)}" for library in LIBRARIES)
    return _TEXT.format(
        name=name,
        versions=versions,
        python=f"Python {platform.python_version()}",
        contract=_declarations(_source("contract.py")),
        kernels="\n".join(f"- {line}" for line in kernel_lines()),
        limits="\n".join(f"- {line}" for line in limit_lines(caps, limits, budget)),
    )


def _source(name: str) -> str:
    return resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _declarations(source: str) -> str:
    """A module from the first thing that it defines on, to the letter."""
    first = next(node for node in ast.parse(source).body if isinstance(node, ast.Assign | ast.ClassDef))
    return "\n".join(source.splitlines()[first.lineno - 1 :])


def kernel_lines() -> Iterator[str]:
    """Signature and first sentence of each function that `kernels` offers."""
    for module, names in KERNELS.items():
        for node in ast.parse(_source(f"kernels/{module}.py")).body:
            if isinstance(node, ast.FunctionDef) and node.name in names:
                returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
                sentence = (ast.get_docstring(node) or "").partition("\n")[0]
                yield f"`kernels.{module}.{node.name}({ast.unparse(node.args)}){returns}`: {sentence}"


def limit_lines(caps: Caps, limits: TimeLimits, budget: Budget) -> Iterator[str]:
    """What a candidate may use, in words."""
    yield (
        f"at most {caps.source_bytes:,} bytes of source; {caps.constant_bytes:,} bytes of constants in all programs "
        f"together; {caps.kernel_bytes:,} bytes of kernels"
    )
    yield (
        "no host callbacks, side effects, 64-bit state or sizes known only at run time; custom calls only as JAX "
        "itself writes them for the platform; Pallas kernels on a TPU, or with `interpret=True` on a CPU"
    )
    yield f"the trace may take {limits.trace:g} s, and memory must hold state and step"
    if budget.seconds is not None:
        yield (
            f"at least {caps.min_steps} steps in the budget of {budget.seconds:g} s; `init` is free for "
            f"{limits.free(budget):g} s; a last step that ends well after the budget is refused"
        )
    yield (
        f"compiling is free for {limits.free_compile:g} s, or {COMPILE_SLOWDOWN:g} times what the champion took; what "
        "exceeds that is taken off a budget in seconds"
    )
    yield (
        "`logits` is probed: position i must not depend on later tokens or other rows; a loss that is not finite ends "
        "the trial"
    )
