"""A place for peers, and findings that they send."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from swarm_place import BASE, Place, make_place

from autoresearch_jax.findings.format import Evidence, Finding, base_digest


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture
def endpoint() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tls/127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def make_finding() -> Callable[..., Finding]:
    """Makes a finding that replaces one line of the base, by another for each id."""

    def make(id: str, new: str = "return abs(x)", decision: str = "keep", replay: str = "x:1") -> Finding:
        seen = Evidence("cpu", "abc", "20 s", 3, decision, "2026-11-29", 0.01, 0.002, 0.97, replay=replay)
        change = f"<<<<<<< SEARCH\n    return x * x\n=======\n    {new}  # {id}\n>>>>>>> REPLACE\n"
        status = "kept" if decision == "keep" else "refuted"
        return Finding(id, f"On {id}", "loss", status, "run x", base_digest(BASE), "Why.", change, (seen,))

    return make
