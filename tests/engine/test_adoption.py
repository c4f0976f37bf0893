"""What lineages give each other, as stores of findings, on nights of a fake task."""

import os

from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.proposers import make_proposer
from autoresearch_jax.decide.rule import LineageRule
from autoresearch_jax.engine import run_findings
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_findings import Adoption
from autoresearch_jax.engine.run_folder import Lineages, RunFolder
from autoresearch_jax.findings import folder
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.types import Metric

RULE = LineageRule(Metric("loss"))


def test_what_one_kept_the_other_tries_once_and_neither_its_own(bench, monkeypatch):
    monkeypatch.setattr(run_findings, "ADOPT_EVERY", 2)
    monkeypatch.setattr(folder, "SHIPPED", bench.repo / "none")
    lineages = Lineages(RunFolder(bench.repo / "runs" / "night"), 2)
    lineages.write()
    first, second = bench.with_tag("night-1"), bench.with_tag("night-2")
    assert Lineages.around(first.folder).folder.path == lineages.folder.path
    assert Lineages.around(RunFolder(bench.repo / "runs" / "night-3")) is None

    def adopts(lineage):
        notices = bench.recorder.notice
        return Adoption(lineages, lineage.folder, lineage.ledger(), bench.repo / "none", None, notices)

    first.loop(proposer=ScriptedProposer([moved(DEPTH=6), moved(LR=0.9), moved(DEPTH=7)]), rule=RULE).run()
    given = adopts(first)
    _, deep, *_, last = first.ledger().experiments()
    assert (deep.decision, last.decision) == ("keep", "discard")
    given.ends(last)  # the third one: it is not time
    assert not lineages.findings.exists()
    assert given.findings() == [], "gives what an earlier process found, and reads nothing of its own"
    (page,) = FindingFolder(lineages.findings, print).findings()
    assert page.status == "kept", "the refuted ones were unknown to the others"

    task, other = FakeTask(), adopts(second)
    precheck = Precheck(task, second.folder)
    settings = ProposerSettings("ideas", findings=bench.repo / "none")
    proposer = make_proposer(
        settings, second.workspace(), second.folder, os.environ, precheck.check, bench.recorder, lineages=other
    )
    second.loop(task, proposer, RULE, max_experiments=500, precheck=precheck).run()
    adopted = [row for row in second.ledger().experiments() if row.finding == page.id]
    assert [row.decision for row in adopted] == ["keep"]
    assert "run night-1, experiment 1" in adopted[0].hypothesis

    adopts(second).findings()
    (page,) = FindingFolder(lineages.findings, print).findings()
    assert {one.replay for one in page.evidence} == {
        "autoresearch trial --from=night-1:1",
        "autoresearch trial --from=night-2:1",
    }
    assert adopts(first).findings() == adopts(second).findings() == []
    assert bench.recorder.notices == []
