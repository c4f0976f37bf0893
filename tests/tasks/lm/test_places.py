"""Trials of the language model beside each other on one host, each on processors of its own."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from lm_trials import MakeTask
from marked_processes import comes_true

from autoresearch_jax.commands.executors import make_executor
from autoresearch_jax.executors.base import Work
from autoresearch_jax.executors.places import divide_processors, processor_cores
from autoresearch_jax.types import Budget, Scalar, Status


@pytest.mark.slow
@pytest.mark.skipif(len(processor_cores()) < 2, reason="needs two processor cores")
def test_two_trials_beside_each_other_have_processors_of_their_own_and_one_can_be_ended(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    places = divide_processors(2, processor_cores())
    task = make_task(Budget(steps=200), places=places, standby=True)
    assert str(task.terms["device_kind"]).startswith(f"{len(places[0].cpus)} x ")
    candidate = task.prepare(tiny_source, tmp_path, beside_a_trial=True)
    executor = make_executor(task)
    assert executor.slots == 2
    used: dict[int, set[frozenset[int]]] = {}  # by number: processors of the trial's processes

    def submit(number: int) -> int:
        logs = tmp_path / str(number)
        logs.mkdir()

        def look(report: Mapping[str, Scalar]) -> None:
            seen = used.setdefault(number, set())
            for pid in processes_in(logs):
                seen.add(frozenset(os.sched_getaffinity(pid)))

        return executor.submit(Work(candidate, 7, logs, logs / "snapshot", on_progress=look))

    first, second = submit(1), submit(2)
    found = {finished.ticket: finished.result() for _ in range(2) if (finished := executor.next_finished()) is not None}
    assert [found[ticket].status for ticket in (first, second)] == [Status.OK, Status.OK]
    assert found[first].value == found[second].value, "one seed, as many threads"
    assert [used[1], used[2]] == [{place.cpus} for place in places]

    ended, third = submit(3), submit(4)
    assert comes_true(lambda: executor.next_finished(0.05) is None and 3 in used, 60)
    executor.cancel(ended)
    assert processes_in(tmp_path / "3") == []
    last = executor.next_finished()
    assert last is not None
    assert (last.ticket, last.result().value) == (third, found[first].value)
    executor.close()
    assert processes_in(tmp_path) == []


def processes_in(folder: Path) -> list[int]:
    """Processes that print to a log in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/2"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if Path(os.readlink(path)).is_relative_to(folder):
                found.append(int(path.parts[2]))
    return found
