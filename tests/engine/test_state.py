"""What a run keeps to, and what proposers are told."""

import json
from dataclasses import replace

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import LineageRule, LineageSettings
from autoresearch_jax.engine.run_folder import RunFolderError
from autoresearch_jax.engine.state import read_state
from autoresearch_jax.types import CHARGED_COMPILE, COMPILED_PROGRAMS, COMPILING_SECONDS, CompileCost, Scalar

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


def test_on_another_machine_or_clock_a_run_does_not_go_on(bench):
    name, now = "device_kind", "NVIDIA L4"
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


def test_what_was_measured_when_the_run_began_is_what_its_clock_goes_on_with(bench):
    first, second = task_with(0.0125), task_with(0.025)  # the machine is slower now
    run(bench, first)
    run(bench, second, experiments=2)
    assert (first.calibrated, second.calibrated) == ([None], [0.0125])
    assert bench.ledger().settings()["reference_seconds"] == 0.0125


class Compiling(FakeTask):
    """Compiles each program once, the better ones for longer; a cache has it for the next trial."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, CompileCost]] = []

    def measure(self, candidate, *, compile_cost, **arguments):
        is_new = candidate.program_hash not in {program_hash for program_hash, _ in self.told}
        self.told.append((candidate.program_hash, compile_cost))
        found = super().measure(candidate, **arguments)
        compiled = {COMPILED_PROGRAMS: int(is_new), COMPILING_SECONDS: 50.0 if is_new else 0.1}
        charged = 7.0 if compile_cost.charged is None else compile_cost.charged
        return replace(found, metrics={**found.metrics, **compiled, CHARGED_COMPILE: charged})


def test_trials_are_told_what_compiling_took(bench):
    task = Compiling()
    rule = LineageRule(task.metric, LineageSettings())
    bench.loop(task, ScriptedProposer([moved(LR=0.1)]), rule, max_experiments=1).run()
    baseline, candidate = dict.fromkeys(program_hash for program_hash, _ in task.told)
    of_baseline = [cost for program_hash, cost in task.told if program_hash == baseline]
    assert set(of_baseline) == {CompileCost(charged=0.0)}, "what others are compared with"
    first, *later = [cost for program_hash, cost in task.told if program_hash == candidate]
    assert first == CompileCost(champion=50.0)
    assert later
    assert set(later) == {CompileCost(charged=7.0)}, "although the cache has it now, and it is the champion itself"


@pytest.mark.parametrize(("of_device", "counts"), [(2**33, 2**30), (2**40, 0.1 * 2**40)])
def test_more_memory_is_measured_by_a_tenth_of_the_device_where_the_baseline_needs_less(bench, of_device, counts):
    task = task_with()
    task.facts = {**task.facts, "device_memory_bytes": of_device}
    run(bench, task)
    state = read_state(bench.ledger())
    assert state is not None
    assert state.complexity(state.runs, 0, "nodes").baseline_memory == counts
