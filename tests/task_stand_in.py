"""Lets commands work on a fake task, of which no dataset need be there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.findings import folder


def stand_in(patch: pytest.MonkeyPatch, make: Callable[[TaskOptions], Any]) -> None:
    """Has the options of the language-model task make another task.

    No findings are shipped for it: reading those of real training files takes a second a command.
    """

    def make_task(self: TaskOptions, run_folder: Path, editable: Path, **how: bool) -> Any:
        assert editable.name == "train_lib.py"
        return make(self)

    patch.setattr(TaskOptions, "make_task", make_task)
    patch.setattr(DatasetOptions, "open", lambda self: None)
    patch.setattr(folder, "SHIPPED", Path("none"))
