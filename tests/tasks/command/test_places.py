"""Trials of a command beside each other on one host, each on processors of its own."""

import os
import time
from pathlib import Path

import pytest
from command_task import ASSET, RUN, SERVED, edited, write_task
from marked_processes import comes_true

from autoresearch_jax.commands.executors import make_executor
from autoresearch_jax.executors.base import Work
from autoresearch_jax.executors.places import divide_processors, processor_cores
from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.command.task import CommandTask, CommandTaskConfig
from autoresearch_jax.tasks.command.task_file import read_task_file
from autoresearch_jax.types import Status

TELL = "import os, sys, time\nprint(sorted(os.sched_getaffinity(0)), file=sys.stderr, flush=True)\n"
HANG = ("THRESHOLD = 1", "import time\ntime.sleep(600)\nTHRESHOLD = 1")


@pytest.mark.skipif(len(processor_cores()) < 2, reason="needs two processor cores")
def test_two_commands_have_processors_of_their_own_and_one_can_be_ended(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_task(
        tmp_path / "task",
        (SERVED, '[run]\ncommand = ["python3", "main.py"]\n'),
        ('["serve.py"]', '["main.py", "questions.txt"]'),
        main_dot_py=TELL + RUN,
    )
    places = divide_processors(2, processor_cores())
    config = CommandTaskConfig(
        *(read_task_file(path), 60.0, sandbox, os.environ, tmp_path / "programs"),
        place=places[0],
        other_places=places[1:],
    )
    task = CommandTask(config)
    assert str(task.terms["device_kind"]).startswith(f"{len(places[0].cpus)} x ")
    executor = make_executor(task)
    assert executor.slots == 2
    tickets = []
    for slot, source in enumerate((edited(ASSET, HANG), ASSET, ASSET)):
        logs = tmp_path / str(slot)
        logs.mkdir()
        tickets.append(executor.submit(Work(task.prepare(source, logs), 0, logs, logs / "snapshot")))
    finished = [executor.next_finished(60.0) for _ in (1, 2)]
    assert [one and (one.ticket, one.result().status, one.result().value) for one in finished] == [
        (ticket, Status.OK, 1.0) for ticket in tickets[1:]
    ], "both in the second slot"
    assert comes_true((tmp_path / "0" / "asset.log").read_text, 60.0)
    told = [(tmp_path / str(slot) / "asset.log").read_text().splitlines()[0] for slot in (0, 1, 2)]
    assert told == [str(sorted(places[slot].cpus)) for slot in (0, 1, 1)]
    began = time.monotonic()
    executor.close()
    assert time.monotonic() - began < 60.0
