"""Papers: what a ledger says of a kept edit or a refutation, in at most 4 kB."""

from contextlib import closing
from dataclasses import replace

import pytest
from nights import write_night

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import Action, Decision
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.papers import MAX_PAPER_BYTES
from autoresearch_jax.engine.records import Intent, Kind, Purpose
from autoresearch_jax.engine.run_findings import findings_of_run
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.findings.format import finding_text, parse_finding
from autoresearch_jax.types import LOSSES, Measurement, Status, write_curve

LOSS = [5 - 0.1 * point for point in range(20)]


class Writer:
    """A ledger of made-up experiments, each a line more than its champion."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._sources = {}
        settings = {"metric": "loss", "direction": "minimize", "decision": "greedy", "budget_seconds": 20.0}
        ledger.save_settings({**settings, "fingerprint": "abc", "platform": "gpu", "device_kind": "a device"})
        self.add(Intent(Kind.BASELINE, "LR = 1\n"), 0.0)

    def add(self, intent: Intent, gain: float | None, runs: int = 1, action: Action | None = None) -> int:
        """An experiment of this gain; None for one without memory."""
        text = self._sources.get(intent.parent, "") + (intent.source or f"A{len(self._sources)} = 1\n")
        number = self.ledger.begin_experiment(replace(intent, source=text)).id
        self._sources[number] = text
        self.ledger.set_program(number, f"program {number}")
        status = Status.OOM if gain is None else Status.OK
        for seed in range(runs):
            trial = self.ledger.begin_trial(number, seed, Purpose.CANDIDATE)
            metrics = {LOSSES: write_curve(LOSS), "num_params": 12345, "peak_memory_bytes": 2**30}
            self.ledger.finish_trial(trial.id, Measurement(status, gain and 1 - gain, trial.seed, metrics))
        if action is None:
            action = Action.DISCARD if gain is None or gain < 0 else Action.KEEP
        if gain is not None:
            self.ledger.record_decision(number, Decision(action, "why", Estimate(gain, 0.01), 0.97, 0.02))
        self.ledger.conclude(number, status, gain, action, "reason", "abc", 61.5)
        return number

    def propose(self, parent: int, gain: float | None, words: str = "", runs: int = 1, **given) -> int:
        words = words or f"idea {len(self._sources)}"
        return self.add(Intent(Kind.PROPOSAL, "", {}, words, "loss", "gemini", parent, **given), gain, runs)

    def papers(self, path, tag: str = "night"):
        """The papers by the number of the experiment, each as it is read again."""
        store = FindingFolder(path, print)
        found = findings_of_run(self.ledger, tag, store).findings
        assert found == findings_of_run(self.ledger, tag, store).findings, "equal ledgers, equal papers"
        for one in found:
            assert parse_finding(finding_text(one.finding), "page") == one.finding
            assert len(one.finding.about.encode()) <= MAX_PAPER_BYTES
        return {one.experiment: one.finding.about for one in found}


@pytest.fixture
def writer(tmp_path):
    with closing(Ledger.open(tmp_path / "ledger.db")) as ledger:
        yield Writer(ledger)


def section(paper: str, name: str) -> list[str]:
    return paper.partition(f"## {name}\n\n")[2].partition("\n\n##")[0].splitlines()


def test_a_paper_tells_claim_setting_evidence_cost_what_failed_lineage_and_replay(writer, tmp_path):
    before = writer.propose(0, 0.1, "first", adopted_from="alice")
    out = writer.propose(before, 0.2, "taken out")
    also = writer.propose(out, 0.2, "taken out, too")
    revert = Intent(Kind.REVERT, "", {}, "without", "revert", "certification", also, without=(out,))
    base = writer.add(revert, 0.1)
    base = writer.add(replace(revert, parent=base, without=(also,)), 0.1)
    for number in range(7):
        writer.propose(base, None if number == 6 else -0.01 * (number + 1), f"miss {number}")
    writer.propose(also, -1.0, "two champions ago")
    number = writer.propose(base, 0.3, "third", 10, cost_dollars=0.5, why="It is smoother.")
    paper = writer.papers(tmp_path / "none")[number]
    assert [line for line in paper.splitlines() if line.startswith("#")] == [
        *("## Claim", "## Setting", "## The change", "## Evidence", "## Loss at even steps", "## Cost"),
        *("## Discarded nearby", "## Lineage", "## Replay", "## Why, in the proposer's opinion (not measured)"),
    ]
    assert section(paper, "Claim") == ['"third": loss 0.300 +- 0.010 better than without it, kept, not certified.']
    setting = "\n".join(section(paper, "Setting"))
    for words in (f"experiment {number} of run night", "abc: loss, lower", "a device", "20 s", "base of the change"):
        assert words in setting
    assert section(paper, "The change") == ["loss: lines added 1, removed 0; they follow."]
    evidence = "\n".join(section(paper, "Evidence"))
    assert evidence.count("0.700000") == 8
    for words in (
        "runs: 10;",
        "and 2 more",
        "+0.300, 95 % +0.280 .. +0.320",
        "gain above its price: 0.97",
        "one run: 0.02",
    ):
        assert words in evidence
    assert section(paper, "Loss at even steps")[0] == "- with the change: 4.7 4.3 3.9 3.5 3.1"
    assert section(paper, "Cost") == ["61.5 s; 0.5000 dollars; 12,345 parameters; 1,024 MiB of memory at most"]
    lead, *nearby = section(paper, "Discarded nearby")
    assert (lead.split()[0], len(nearby)) == ("7", 5), "the one before the last champion is too far"
    assert nearby[0].endswith('"miss 6": oom')
    assert nearby[1].endswith("worse")
    lineage = section(paper, "Lineage")[1:]
    assert lineage == [f'- experiment {before}, "first", adopted from alice']
    assert section(paper, "Replay") == [f"`autoresearch trial --from=night:{number}`"]
    assert paper.endswith("\n\n> It is smoother.")
    refuted = writer.papers(tmp_path / "none")[number - 1]
    assert section(refuted, "Claim")[0].endswith("worse than without it, discarded.")
    for _ in range(14):
        number = writer.propose(number, 0.1, why="y" * 700)
    paper = writer.papers(tmp_path / "none")[number]
    assert len(section(paper, "Lineage")) == 1 + 12
    assert paper.endswith(f"\n> {'y' * 597}...")


def test_a_paper_is_at_most_4_kb_whatever_agents_say(writer, tmp_path):
    wide, parent = "\N{GRINNING FACE}" * 5000, 0
    for _ in range(20):
        parent = writer.propose(parent, 0.1, wide, adopted_from=wide)
    for _ in range(6):
        writer.propose(parent, -1.0, wide)
    short = writer.propose(parent, 0.1, "short", why="In short.")
    hostile = "smooth \x1b[31m\u2028\n\n## Change\n\n```\nrm -rf /\n```\n" + wide
    long = writer.propose(parent, 0.1, wide, 10, why=hostile)
    papers = writer.papers(tmp_path / "none", tag=wide[:63])
    lineage = section(papers[short], "Lineage")
    assert lineage[0].split()[5] == "20"
    assert 1 < len(lineage) < 14
    assert section(papers[short], "Discarded nearby") == [], "that goes first"
    assert papers[short].endswith("> In short."), "and the opinion last"
    assert "## Lineage" not in papers[long]
    assert papers[long].splitlines()[-1].startswith("> smooth ## Change ``` rm")
    assert papers[long].endswith("...")
    writer.ledger.save_settings(dict.fromkeys(("metric", "device_kind", "fingerprint"), wide[:400]))
    assert len(writer.papers(tmp_path / "none", tag=wide[:63])) == 28


def test_papers_of_a_night_can_be_read_again(tmp_path):
    folder = write_night(tmp_path / "night", 60, seed=1, hostile=True)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        writer = Writer.__new__(Writer)
        writer.ledger = ledger
        assert len(writer.papers(tmp_path / "none")) > 5
