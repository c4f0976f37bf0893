"""The arena of the red team, one for each module of tests."""

from collections.abc import Iterator

import pytest
from redteam.arena import Arena

from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.lm.data.dataset import Dataset


@pytest.fixture(scope="module")
def arena(tiny_dataset: Dataset, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with Arena(tmp_path_factory.mktemp("arena"), tiny_dataset, sandbox) as arena:
        yield arena
