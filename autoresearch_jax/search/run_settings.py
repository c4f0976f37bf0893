"""The settings that a run keeps to for as long as it lives: all that its scores and its decisions depend on."""

from collections.abc import Mapping
from pathlib import Path

from autoresearch_jax.measurement import Scalar
from autoresearch_jax.search.decision import DecisionRule
from autoresearch_jax.search.run_folder import check_settings, task_settings
from autoresearch_jax.search.task import Terms


def run_settings(editable: str, seed: int, task: Terms, rule: DecisionRule) -> dict[str, Scalar]:
    """The settings of a run that begins, in the order in which they are stored.

    Args:
      editable: path of the training file inside its repository.
      seed: the source of every seed.
      task: what is measured.
      rule: what decides.
    """
    return {"editable": editable, "seed": seed, **task_settings(task), **rule.settings}


def check_run_settings(stored: Mapping[str, Scalar], wanted: Mapping[str, Scalar], folder: Path) -> None:
    """Refuses to go on with a run under other settings than its own.

    Args:
      stored: in the run's ledger.
      wanted: see `run_settings`.
      folder: of the run.

    Raises:
      RunFolderError: some differ; the message names each.
    """
    check_settings({"decision": "greedy", **stored}, wanted, folder)  # as all did before there was a choice
