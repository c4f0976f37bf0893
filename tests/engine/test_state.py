"""What a run keeps to, and what proposers are told."""

import json
from dataclasses import replace

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import LineageRule, LineageSettings
from autoresearch_jax.engine.briefs import LOSS_CURVE, read_loss_file
from autoresearch_jax.engine.limits import Progress, limits_left, parse_stop
from autoresearch_jax.engine.run_folder import RunFolderError
from autoresearch_jax.proposers.briefing import write_brief
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


@pytest.mark.parametrize(
    ("name", "now"),
    [("device_kind", "NVIDIA L4"), ("clock", "attended")],
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


HEADER = "step,elapsed_seconds,loss\n"


class Curved(FakeTask):
    """Leaves a loss curve in the logs, and metrics of which some are of the validation text."""

    def measure(self, candidate, *, log_dir, **arguments):
        rows = "".join(f"{step},0.5,{100 - step}\n" for step in range(91))
        (log_dir / LOSS_CURVE).write_text(HEADER + rows)
        measurement = super().measure(candidate, log_dir=log_dir, **arguments)
        return replace(
            measurement,
            metrics={**measurement.metrics, "step_flops": 9.5e9, "val_bpb_original": 1.23456789, "num_steps": None},
        )


@pytest.fixture
def briefs(bench):
    """Of a short run with the rule that knows the noise."""
    proposer = ScriptedProposer([moved(LR=0.1), moved(LR=0.2), moved(DEPTH=5), moved(FAULT="reject"), moved(LR=0.3)])
    rule = LineageRule(FakeTask().metric, LineageSettings())
    bench.loop(Curved(), proposer, rule, max_experiments=5).run()
    return proposer.briefs


def test_the_champions_facts_and_nothing_of_the_validation_text(briefs):
    assert briefs[0].facts == {
        "device_kind": "a fake",
        "budget_steps": 1,
        "champion's step_flops": 9.5e9,
        "champion's peak_memory_bytes": 2**30,
    }
    assert "1.23456" not in write_brief(briefs[-1], "", 10_000)


def test_scores_are_no_finer_than_the_noise_floor(briefs):
    for brief in briefs:
        assert 0 < brief.noise_floor < 0.005
        assert len(repr(brief.noise_floor).strip("0.")) == 1, "one digit"
        scores = [outcome.score for outcome in brief.history if outcome.score is not None]
        assert all(len(repr(score)) <= len("1.1234") for score in [*scores, brief.champion_score])


def test_curves_of_the_champion_and_the_latest_candidates_that_have_one(briefs):
    assert briefs[0].curves[0] == [100.0, 90.0, 80.0, 70.0, 60.0, 50.0, 40.0, 30.0, 20.0, 10.0]
    assert [sorted(brief.curves) for brief in briefs] == [[0], [1], [1, 2], [1, 2, 3], [1, 2, 3]], "4 was never trained"


def test_what_is_left(briefs):
    assert [brief.limits_left for brief in briefs] == [
        *(("5 experiments",), ("4 experiments",), ("3 experiments",), ("2 experiments",), ("1 experiment",))
    ]
    items = ("100 experiments", "8 hours", "20 dollars", "no keep in 40 experiments", "loss <= 0.97", "8 minutes")
    progress = Progress(experiments=63, seconds=479.0, dollars=1.5, since_keep=39, metric="loss", score=1.0)
    assert limits_left([parse_stop(item) for item in items], progress) == (
        *("37 experiments", "7.9 hours", "18.50 dollars", "1 experiment without a keep end the search"),
        *("the search ends at loss <= 0.97", "1.0 seconds"),
    )


def test_a_curve_is_a_few_losses_evenly_spread(tmp_path):
    path = tmp_path / LOSS_CURVE
    assert read_loss_file(path) == []
    path.write_text(HEADER)
    assert read_loss_file(path) == []
    path.write_text(HEADER + "1,0.1,7.5\n2,0.2,3.5\n")
    assert read_loss_file(path) == [7.5, 3.5]
    path.write_text(HEADER + "".join(f"{n},0,{n}\n" for n in range(100)))
    assert read_loss_file(path, points=4) == [0, 33, 66, 99]
    path.write_text(HEADER + "1,0.1,7.5\n2,0.2,\n")
    assert read_loss_file(path) == [], "cut off"
    path.write_bytes(b"\xff\x00")
    assert read_loss_file(path) == []
