"""The contract of tasks on the language model."""

from pathlib import Path

import pytest
from lm_trials import MakeTask
from task_contract import check_task
from tracing import edited

from autoresearch_jax.types import Budget


@pytest.mark.slow
def test_the_language_model_keeps_the_contract(make_task: MakeTask, tiny_source: str, tmp_path: Path) -> None:
    other = edited(tiny_source, ("LEARNING_RATE = 10.0", "LEARNING_RATE = 9.0"))
    check_task(make_task(Budget(steps=2)), tiny_source, other, "def (", tmp_path / "trials")
