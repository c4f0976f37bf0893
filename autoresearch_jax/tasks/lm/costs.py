"""What compiled programs will need, known before a second is spent: memory, and how many steps fit into the budget."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

GIBIBYTE = 1 << 30


class TooCostlyError(Exception):
    """A candidate needs more than there is; one line with both numbers."""


def memory_bytes(compiled: Any) -> int | None:
    """Bytes a program needs at once on one device: arguments, results and temporaries, what is donated counted once."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return int(
        stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes - stats.alias_size_in_bytes
    )


def flops(compiled: Any, of_products: float = 0.0) -> float | None:
    """Floating point operations of one call on one device; None where nobody knows.

    Args:
      compiled: the program, in which XLA counts a loop's body once, however often it runs.
      of_products: those of its matrix products on one device, loops counted (see `products.py`); the larger counts.
    """
    value = max((compiled.cost_analysis() or {}).get("flops") or 0.0, of_products)
    return float(value) if value > 0 else None


def check_memory(needed: Mapping[str, int | None], device_bytes: int | None) -> None:
    """Refuses programs that the memory cannot hold.

    Args:
      needed: bytes that each program needs there, by its name; None where it is not known.
      device_bytes: what there is; None where that is not known.

    Raises:
      TooCostlyError: one needs more.
    """
    for name, size in needed.items():
        if size is not None and device_bytes is not None and size > device_bytes:
            sizes = f"{size / GIBIBYTE:,.1f} GiB of memory, the device has {device_bytes / GIBIBYTE:,.1f} GiB"
            raise TooCostlyError(f"`{name}` needs {sizes}: make the model or the batch smaller")


def predict_steps(
    begins: Sequence[float], step_flops: Sequence[float | None], budget_seconds: float, peak_flops: float | None
) -> float | None:
    """How many steps fit into a budget at the devices' peak speed: more than there will be; None where it is not known.

    Args:
      begins: progress at which each phase begins.
      step_flops: floating point operations of one step of each phase, on all devices together.
      budget_seconds: the time box.
      peak_flops: of all devices together, per second.
    """
    if peak_flops is None:
        return None
    steps = 0.0
    for (begin, end), of_one_step in zip(itertools.pairwise([*begins, 1.0]), step_flops, strict=True):
        if of_one_step is None:
            return None
        steps += (end - begin) * budget_seconds * peak_flops / of_one_step
    return steps


def check_steps(predicted: float | None, min_steps: int, budget_seconds: float) -> None:
    """Refuses steps so large that too few of them fit into the budget.

    Raises:
      TooCostlyError: fewer than `min_steps` do.
    """
    if predicted is not None and predicted < min_steps:
        raise TooCostlyError(
            f"even at the device's peak speed only {predicted:.1f} steps fit into {budget_seconds:g} s, "
            f"and at least {min_steps} must: make the model or the batch smaller"
        )
