"""Tasks are opened by name."""

import pytest

from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks import TASKS, open_task


def test_an_unknown_task_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UsageError, match=rf"'chess'.*{', '.join(TASKS)}"):
        open_task("chess", None)


def test_every_task_can_be_loaded() -> None:
    for name in TASKS:
        with pytest.raises(AttributeError):  # it is loaded, and finds no configuration
            open_task(name, None)
