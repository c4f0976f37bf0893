"""A cage at each level that works here, and code run in it."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cages import CONFINED, SMALL, Run

from autoresearch_jax.sandbox.sandbox import (
    Level,
    Sandbox,
    SandboxError,
    SandboxResult,
    open_sandbox,
)


def level_or_skip(level: Level, cache: Path) -> Sandbox:
    try:
        return open_sandbox(level, cache_dir=cache, environment=os.environ)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(params=list(Level))
def cage(request: pytest.FixtureRequest, sandbox_cache: Path) -> Sandbox:
    return level_or_skip(request.param, sandbox_cache)


@pytest.fixture(params=CONFINED)
def closed_cage(request: pytest.FixtureRequest, sandbox_cache: Path) -> Sandbox:
    return level_or_skip(request.param, sandbox_cache)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def run(scratch: Path, tmp_path: Path) -> Run:
    """Runs Python code in a cage; what it printed is in tmp_path / "log"."""

    def run_code(cage: Sandbox, code: str, environment: Mapping[str, str] = os.environ, **limits: Any) -> SandboxResult:
        return cage.run_python(
            ["-c", code],
            scratch=scratch,
            environment=environment,
            log_path=tmp_path / "log",
            limits=replace(SMALL, **limits),
        )

    return run_code
