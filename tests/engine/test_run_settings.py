"""What a run is bound to: its device, its versions, its clock, and what that clock counts in."""

import json
from dataclasses import replace

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.engine.run_folder import RunFolderError
from autoresearch_jax.types import Scalar

TERMS: dict[str, Scalar] = {
    "platform": "cuda",
    "device_kind": "NVIDIA H100 80GB HBM3",
    "num_devices": 2,
    "mesh": "data=2,model=1",
    "jax_version": "0.10.2",
    "clock": "wall",
}


def task_with(reference_seconds: float | None = None, **terms: Scalar) -> FakeTask:
    task = FakeTask()
    task.terms = {**TERMS, **terms}
    task.reference_seconds = reference_seconds
    return task


def run(bench, task: FakeTask, experiments: int = 1) -> None:
    bench.loop(task, ScriptedProposer([moved(LR=0.4), moved(LR=0.3)]), max_experiments=experiments).run()


def test_a_run_keeps_what_it_is_bound_to(bench):
    run(bench, task_with(0.0125))
    settings = bench.ledger().settings()
    assert {name: settings[name] for name in TERMS} == TERMS
    assert settings["reference_seconds"] == 0.0125
    assert json.loads(bench.folder.settings.read_text()) == settings, "people can read it, too"


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("platform", "tpu"),
        ("device_kind", "NVIDIA L4"),
        ("num_devices", 1),
        ("mesh", "data=1,model=2"),
        ("jax_version", "0.11.0"),
        ("clock", "attended"),
    ],
)
def test_on_another_machine_or_clock_a_run_does_not_go_on(bench, name, now):
    run(bench, task_with())
    rows = bench.ledger().experiments()
    other = task_with(**{name: now})
    with pytest.raises(RunFolderError) as caught:
        run(bench, other, experiments=2)
    words = str(caught.value)
    assert f"{name} {TERMS[name]} then, {now} now" in words
    assert "\n" not in words
    assert "--tag" in words
    assert other.measured == other.calibrated == []
    assert bench.ledger().experiments() == rows
    run(bench, task_with(), experiments=2)
    assert len(bench.ledger().experiments()) == 3


def test_all_that_differs_is_named(bench):
    run(bench, task_with())
    with pytest.raises(
        RunFolderError, match=r"device_kind NVIDIA H100.* then, NVIDIA L4 now.*clock wall then, attended"
    ):
        run(bench, task_with(device_kind="NVIDIA L4", clock="attended"))


def test_what_was_measured_when_the_run_began_is_what_its_clock_goes_on_with(bench):
    first, second = task_with(0.0125), task_with(0.025)  # the machine is slower now
    run(bench, first)
    run(bench, second, experiments=2)
    assert (first.calibrated, second.calibrated) == ([None], [0.0125])
    assert bench.ledger().settings()["reference_seconds"] == 0.0125


def test_a_clock_that_needs_no_reference_keeps_none(bench):
    task = task_with()
    run(bench, task)
    run(bench, task, experiments=2)
    assert task.calibrated == [None, None]
    assert bench.ledger().settings().get("reference_seconds") is None


def test_killed_before_the_reference_was_kept_it_is_measured_by_the_next_process(bench):
    class Killed(FakeTask):
        def calibrate(self, reference_seconds, log_dir):
            raise SystemExit("killed")

    killed = Killed()
    killed.terms = TERMS
    with pytest.raises(SystemExit):
        run(bench, killed)
    assert bench.ledger().settings()["clock"] == "wall"
    assert "reference_seconds" not in bench.ledger().settings()
    task = task_with(0.0125)
    run(bench, task)
    assert task.calibrated == [None]
    assert bench.ledger().settings()["reference_seconds"] == 0.0125
    with pytest.raises(RunFolderError, match="clock wall then, attended now"):
        run(bench, task_with(clock="attended"))


def test_nothing_is_measured_before_the_clock_is_set(bench):
    class Watched(FakeTask):
        def measure(self, candidate, **arguments):
            assert self.calibrated == [None]
            return super().measure(candidate, **arguments)

    task = Watched()
    run(bench, task)
    assert task.measured


def test_runs_of_one_repository_have_each_their_own(bench):
    run(bench, task_with(0.0125))
    other = replace(bench, tag="other")
    run(other, task_with(0.025, clock="attended"))
    assert [each.ledger().settings()["reference_seconds"] for each in (bench, other)] == [0.0125, 0.025]
