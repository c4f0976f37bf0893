"""The contract of tasks on the fake and on a command."""

from pathlib import Path

from command_task import ASSET, open_command, write_task
from fakes import SOURCE, FakeTask
from task_contract import check_task

from autoresearch_jax.sandbox.sandbox import Sandbox


def test_the_fake_keeps_the_contract(tmp_path: Path) -> None:
    check_task(FakeTask(), SOURCE, SOURCE.replace("0.5", "0.4"), SOURCE.replace('"none"', '"reject"'), tmp_path)


def test_a_command_keeps_the_contract(tmp_path: Path, sandbox: Sandbox) -> None:
    task = open_command(write_task(tmp_path / "task"), sandbox)
    check_task(task, ASSET, ASSET.replace("= 1", "= 2"), "def (", tmp_path / "trials")
