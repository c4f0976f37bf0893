"""The arena of the red team, one for each module of tests; in the end an honest file has the score it had at first."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redteam.arena import Arena

from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.types import Status


@pytest.fixture(scope="module")
def arena(
    tiny_dataset: Dataset, sandbox: Sandbox, compile_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Arena]:
    with Arena(tmp_path_factory.mktemp("arena"), tiny_dataset, sandbox, compile_cache) as arena:
        yield arena
        if arena.has_honest_score:
            again = arena.honest()
            assert (again.status, again.value) == (Status.OK, arena.honest_score), "a candidate harmed later ones"
