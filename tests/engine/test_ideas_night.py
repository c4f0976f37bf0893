"""Nights of findings: tried on the champion, recorded, exported with what they came to."""

import os

import pytest
from fakes import SOURCE, FakeTask
from ledgers import substance
from swarm_place import words_of

from autoresearch_jax.commands.proposer_options import ProposerSettings
from autoresearch_jax.commands.proposers import make_proposer
from autoresearch_jax.decide.rule import LineageRule
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_findings import findings_of_run
from autoresearch_jax.findings.folder import FindingFolder, Library
from autoresearch_jax.findings.format import Finding, base_digest, changed_base, parse_finding
from autoresearch_jax.types import Metric

RULE = LineageRule(Metric("loss"))


def finding(id: str, old: str, new: str, category: str = "optimizer") -> Finding:
    change = f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"
    return Finding(id, f"Try {id}", category, "idea", "https://example.org", base_digest(SOURCE), "Why.", change)


DEEP = finding("deep", "DEPTH = 4  # best at 6", "DEPTH = 6", "architecture")
SLOW = finding("fast", "LR = 0.5  # best at 0.1", "LR = 0.9")
BROKEN = finding("broken", 'FAULT = "none"', 'FAULT = "reject"')
CRASHES = finding("crashes", 'FAULT = "none"', 'FAULT = "crash"')


@pytest.fixture
def own(tmp_path):
    folder = FindingFolder(tmp_path / "own", print)
    for one in (DEEP, SLOW, BROKEN, CRASHES):
        folder.add(one, SOURCE)
    return folder


def loop_of(bench, own, name: str = "ideas", task: FakeTask | None = None, claimant=None, **options):
    """A loop, wired as the command line does it."""
    task = task or FakeTask()
    precheck = Precheck(task, bench.folder, claimant=claimant)
    settings = ProposerSettings(name, findings=own.path)
    words = (bench.workspace(), bench.folder, os.environ, precheck.check, bench.recorder, "cpu")
    return bench.loop(task, make_proposer(settings, *words), RULE, precheck=precheck, **options)


def by_finding(ledger):
    return {row.finding: row for row in ledger.experiments() if row.finding is not None}


def test_findings_are_tried_once_recorded_and_goes_on_where_it_was_interrupted(bench, twin, own, run_git):
    ended = loop_of(bench, own, max_experiments=9).run()
    assert "1 do not fit" in ended or "were tried" in ended
    ledger = bench.ledger()
    rows = by_finding(ledger)
    assert sorted(rows) == ["crashes", "deep", "fast"], "the one that cannot be traced is passed over"
    assert len(ledger.experiments()) == 4
    assert (rows["deep"].decision, rows["fast"].decision) == ("keep", "discard")
    assert rows["crashes"].status == "crash"
    assert rows["deep"].hypothesis == "Try deep (https://example.org)"
    assert {row.proposer for row in rows.values()} == {"ideas"}
    assert "Finding: deep" in run_git(bench.repo, "log", "-1", "--format=%(trailers)", f"autoresearch/{bench.tag}")
    assert sum("broken" in notice for notice in bench.recorder.notices) == 1
    for experiments in (1, 2, 9):
        loop_of(twin, own, max_experiments=experiments).run()
    assert substance(twin.ledger()) == substance(ledger)


def test_what_another_peer_measures_is_passed_over_for_a_while(bench, own):
    asked = []

    def claimant(program_hash: str) -> str | None:
        asked.append(program_hash)
        return "bob" if program_hash == asked[0] else None

    loop_of(bench, own, claimant=claimant, max_experiments=9).run()
    assert asked[0] not in {row.program_hash for row in bench.ledger().experiments()}
    assert len(by_finding(bench.ledger())) == 2
    assert sum("(bob, a peer of the swarm, measures" in notice for notice in bench.recorder.notices) == 1
    loop_of(bench, own, max_experiments=9).run()
    assert sorted(by_finding(bench.ledger())) == ["crashes", "deep", "fast"]


def test_a_kill_while_a_finding_is_traced_changes_nothing(bench, twin, own):
    """It may be one that is to be passed over; the other is proposed by the same proposer as without a kill."""
    cuts = ['FAULT = "reject"', "DEPTH = 6"]

    class Cut(FakeTask):
        def prepare(self, source, log_dir, **options):
            if cut := next((cut for cut in cuts if cut in source), None):
                cuts.remove(cut)
                raise KeyboardInterrupt
            return super().prepare(source, log_dir, **options)

    assert loop_of(bench, own, "hybrid", max_experiments=10).run() == "10 experiments reached"
    rows = bench.ledger().experiments()[1:]
    assert {row.proposer for row in rows} == {"constants", "ideas"}
    assert [row.finding is not None for row in rows] == [row.proposer == "ideas" for row in rows]
    for _ in range(2):
        assert loop_of(twin, own, "hybrid", Cut(), max_experiments=10).run().startswith("interrupted")
    assert cuts == []
    loop_of(twin, own, "hybrid", max_experiments=10).run()
    assert substance(twin.ledger()) == substance(bench.ledger())


def test_a_run_exports_what_it_kept_and_refuted_and_what_was_no_finding_becomes_one(bench, own, tmp_path):
    loop_of(bench, own, max_experiments=9).run()
    library = Library([own], print)
    found = findings_of_run(bench.ledger(), bench.tag, library)
    by_id = {one.finding.id: one.finding for one in found.findings}
    assert {name: finding.status for name, finding in by_id.items()} == {"deep": "kept", "fast": "refuted"}
    assert by_id["deep"].content == DEEP.content
    (evidence,) = by_id["fast"].evidence
    assert (evidence.decision, evidence.budget, evidence.device, evidence.fingerprint) == (
        *("discard", "1 steps", "a fake", "fake"),
    )
    assert evidence.effect < -2 * evidence.error < 0
    assert evidence.replay == f"autoresearch trial --from={bench.tag}:{by_finding(bench.ledger())['fast'].id}"
    assert sum(found.left_out.values()) == 1
    for one in found.findings:
        library.add(one.finding, one.base_text)
    assert library.get("fast").status == "refuted"

    nothing = FindingFolder(tmp_path / "nothing", print)
    found = findings_of_run(bench.ledger(), bench.tag, nothing)
    again = findings_of_run(bench.ledger(), bench.tag, nothing)
    assert found == again
    target = FindingFolder(tmp_path / "exported", print)
    for one in found.findings:
        assert target.add(one.finding, one.base_text) == "added"
        ledger, number = bench.ledger(), one.experiment
        assert changed_base(one.finding, one.base_text) == ledger.source(number)
        assert parse_finding((target.path / f"{one.finding.id}.md").read_text(), "page") == one.finding
        assert target.add(one.finding, one.base_text) == "is there already"
    assert sorted(words_of(finding.id) for finding in target.findings()) == [
        "try-deep-https-example",
        "try-fast-https-example",
    ]
