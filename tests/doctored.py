"""What tests of `autoresearch doctor` share."""

from collections.abc import Callable
from pathlib import Path

import autoresearch_jax

ROOT = Path(autoresearch_jax.__file__).parent.parent
KEY = "AIza-xq7Vrr2-mmK9"
Doctor = Callable[..., tuple[int, dict[str, str]]]


def lines(output: str) -> dict[str, str]:
    """What stands on each `key: value` line; headings and empty lines left out."""
    pairs = [line.split(":", 1) for line in output.splitlines() if line and not line.startswith("[")]
    assert len({name for name, _ in pairs}) == len(pairs), "names are unique"
    return {name: value.strip() for name, value in pairs}
