"""A base, and findings that change it."""

from collections.abc import Callable

import pytest

from autoresearch_jax.findings.format import Finding, base_digest

BASE = "LR = 0.5\n\n\ndef loss(x):\n    return x * x\n\n\ndef rate(x):\n    return x\n"


@pytest.fixture
def base() -> str:
    return BASE


@pytest.fixture
def make_finding() -> Callable[..., Finding]:
    """Makes a finding that replaces one line of the base."""

    def make(id: str, search: str = "return x * x", replace: str = "return abs(x)", **given) -> Finding:
        change = f"<<<<<<< SEARCH\n    {search}\n=======\n    {replace}\n>>>>>>> REPLACE\n"
        words = {"title": id, "category": "optimizer", "status": "idea", "source": "https://example.org", **given}
        return Finding(id, base=base_digest(BASE), about="Why.", change=change, **words)

    return make
