"""What bench_ideas makes of the ledger of a run, and what it writes into the pages of ideas."""

import argparse
import importlib.util
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.findings.format import Evidence, Finding, read_finding, write_finding
from autoresearch_jax.types import Measurement, Status

SCRIPTS = Path(__file__).parent.parent / "scripts"
CHANGE = "<<<<<<< SEARCH\nDEPTH = 2\n=======\nDEPTH = 1\n>>>>>>> REPLACE\n"
SETTINGS = {"fingerprint": "f", "platform": "cpu", "device_kind": "a CPU", "budget_steps": 20, "direction": "minimize"}
KEPT = Evidence(
    "cpu", "f", "20 steps", runs=3, decision="keep", date="2026-11-29", effect=0.2, error=0.01, probability=0.99
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_ideas", SCRIPTS / "bench_ideas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setitem(sys.modules, "bench_ideas", module)
        spec.loader.exec_module(module)
    return module


def idea(name: str) -> Finding:
    return Finding(name, "One layer", "architecture", "idea", "https://example.org", "0" * 12, "Why.", CHANGE)


def test_results_are_read_from_the_ledger(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger.open(path)) as ledger:
        ledger.save_settings(SETTINGS)
        ledger.begin_experiment(Intent(Kind.BASELINE, "DEPTH = 2\n"))
        ledger.conclude(0, Status.OK, 2.0, Action.KEEP, "the baseline", None, 1.0)
        for name, status in (("worse", Status.OK), ("failing", Status.CRASH), ("running", None)):
            row = ledger.begin_experiment(Intent(Kind.PROPOSAL, "DEPTH = 1\n", parent=0, finding=name))
            if status is Status.OK:
                trial = ledger.begin_trial(row.id, seed=1)
                ledger.finish_trial(trial.id, Measurement(status, 2.5, seed=1))
                decision = Decision(Action.DISCARD, "worse", Estimate(-0.4, 0.1), probability=0.01)
                ledger.record_decision(row.id, decision)
            if status is not None:
                ledger.conclude(row.id, status, None, Action.DISCARD, "out of range\nmore", None, 1.0)

    ideas = {name: idea(name) for name in ("worse", "failing", "running", "untried")}
    results = bench.read_results(path, ideas, run=2)
    assert results.keys() == {"worse", "failing"}
    worse, failing = results["worse"].evidence, results["failing"].evidence
    assert (worse.effect, worse.error, worse.probability, worse.runs) == (-0.4, 0.1, 0.01, 1)
    assert (worse.device_class, worse.budget, worse.decision) == ("cpu", "20 steps", "discard")
    assert (failing.effect, failing.runs, failing.decision) == (None, 0, "crash")

    text = bench.table(list(results.values()), [ideas["untried"]])
    assert "| worse | architecture | 2 | discard | 1 | -0.4000 | -0.5645 .. -0.2355 | 0.01 |" in text
    assert "| untried | architecture |  | not tried |" in text
    assert text.endswith("failing: out of range")


def test_evidence_is_added_to_the_page_in_place_of_earlier(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SHIPPED", tmp_path)
    finding, path = idea("one-layer"), tmp_path / "one-layer.md"
    write_finding(path, finding)
    elsewhere = replace(KEPT, device_class="NVIDIA L4", decision="discard", effect=-0.1, probability=0.01)
    for evidence in (replace(KEPT, effect=0.1), KEPT):
        bench.write_evidence([bench.Measured(finding, evidence, 1, "")])
    assert read_finding(path) == replace(finding, evidence=(KEPT,), status="kept")
    bench.write_evidence([bench.Measured(finding, elsewhere, 1, "")])
    assert read_finding(path) == replace(finding, evidence=(KEPT, elsewhere), status="unclear")


def test_a_run_s_package_has_its_ideas_alone(bench: ModuleType, tmp_path: Path) -> None:
    names = sorted(path.stem for path in bench.SHIPPED.glob("*.md"))[:2]
    bench.copy_package(tmp_path, [read_finding(bench.SHIPPED / f"{name}.md") for name in names])
    copied = tmp_path / "autoresearch_jax"
    assert sorted(path.stem for path in (copied / "ideas").glob("*.md")) == names
    assert any((copied / "ideas" / "bases").iterdir())
    assert (copied / "engine" / "loop.py").is_file()


def test_an_idea_with_an_effect_for_the_class_and_budget_is_measured_already(bench: ModuleType) -> None:
    def has_effect(device_class: str, steps: int | None) -> bool:
        asked = argparse.Namespace(unmeasured=device_class, budget_seconds=None, budget_steps=steps)
        return bool(bench.has_effect(replace(idea("one-layer"), evidence=(KEPT,)), asked))

    assert has_effect("cpu", 20)
    assert has_effect("cpu", None)
    assert not has_effect("cpu", 30)
    assert not has_effect("NVIDIA L4", 20)
    failed = replace(idea("one-layer"), evidence=(replace(KEPT, effect=None),))
    assert not bench.has_effect(failed, argparse.Namespace(unmeasured="cpu", budget_seconds=None, budget_steps=None))
