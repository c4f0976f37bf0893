"""What a kernel for a TPU may ask of its compiler, beside its instructions: nothing that lets it out of its arrays.

A kernel reaches XLA as the text of a call, in JSON: `custom_call_config` with the instructions in it, and settings
around them (jax/_src/tpu_custom_call.py). XLA checks that a kernel stays within its arrays, unless it is told not to.
"""

import json
from typing import Any

TPU_KERNEL = "tpu_custom_call"
_CONFIG = "custom_call_config"
# Those of jax 0.10.2 and 0.12 that say how much a kernel takes and where its arrays lie. Not among them: to leave out
# the checks of bounds and of semaphores, to speak with other devices, to start before they do, and flags by name.
_ALLOWED = frozenset(
    (_CONFIG, "sparse_core_config", "device_type", "scoped_memory_configs", "megachip_parallelism_config")
)
_ALLOWED_IN_CONFIG = frozenset(
    (
        *("body", "serialization_format", "debug_locations", "cost_estimate", "needs_hlo_passes"),
        *("needs_layout_passes", "shape_invariant_numerics", "allow_input_fusion", "internal_scratch_in_bytes"),
        *("output_memory_space_colors", "input_memory_space_colors"),
    )
)


def refused_settings(payload: bytes) -> set[str]:
    """Names of the settings that a kernel must not have, or does not have in any JAX we know."""
    try:
        settings = json.loads(payload, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError):
        return {"settings that are no JSON"}
    config = settings.get(_CONFIG) if isinstance(settings, dict) else None
    if not isinstance(config, dict):
        return {f"settings without {_CONFIG}"}
    return (settings.keys() - _ALLOWED) | (config.keys() - _ALLOWED_IN_CONFIG)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a key that comes twice would be read by us and by XLA as it pleases each."""
    settings = dict(pairs)
    if len(settings) < len(pairs):
        raise ValueError("a key comes twice")
    return settings
