"""A place for agents with a command line."""

from pathlib import Path

import pytest
from agent_place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
