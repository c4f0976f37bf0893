"""A made-up run that pages are shown of."""

import pytest
from nights import write_night

from autoresearch_jax.engine.run_folder import RunFolder

EXPERIMENTS = 40


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that is over, with some keeps and an audit; not to be written to, but for its report."""
    return write_night(tmp_path_factory.mktemp("runs") / "night", EXPERIMENTS, seed=2, audited=True)
