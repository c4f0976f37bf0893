"""Tests of what others say of a peer's claim."""

from dataclasses import replace

from autoresearch_jax.findings.format import Evidence, Finding, finding_text, parse_finding, status_of
from autoresearch_jax.findings.trust import DIFFERS, REPLAYED, Trust, claimant, trust_of
from autoresearch_jax.proposers.base import Brief, PastExperiment
from autoresearch_jax.proposers.ideas import draw_order
from autoresearch_jax.proposers.peer_papers import relevant_papers
from autoresearch_jax.types import Metric, Status

CLAIM = Evidence(
    *("cpu", "task", "20 s", 3, "keep", "2026-11-29", 0.01, 0.002),
    sigma=0.002,
    seed=7,
    steps=300,
    value=1.25,
    peer="alice",
)
AGAIN = replace(CLAIM, decision=REPLAYED, runs=1, effect=None, error=None, claim="alice")


def test_replays_adoptions_and_refutations_count_once_a_peer() -> None:
    refuted = replace(CLAIM, decision="discard", effect=-0.01)
    said = [
        CLAIM,
        replace(AGAIN, peer="alice"),  # says nothing of itself
        replace(AGAIN, peer="bob", decision=DIFFERS),
        replace(AGAIN, peer="bob"),  # the later one counts
        replace(AGAIN, peer="carol", value=1.2501),
        replace(AGAIN, peer="dora", steps=None),  # equal by chance, as far as anybody knows
        replace(AGAIN, peer="emil", value=1.3, decision=DIFFERS),
        replace(AGAIN, peer="fred", claim="bob"),  # of another one's claim
        replace(CLAIM, peer="carol"),
        replace(CLAIM, peer="dora", device_class="NVIDIA L4"),
        replace(CLAIM, peer="dora", date="2026-11-30"),
        replace(refuted, peer="emil"),
        replace(refuted, peer="fred", error=0.02),  # is not clear
    ]
    trust = trust_of(said, "alice")
    assert trust == Trust(equal=1, within=2, differing=1, adopted=2, classes=2, refuted=1)
    assert trust.short == "1 equal, 2 within noise, 1 differs, 2 adopted, 1 refuted"
    assert trust.is_confirmed
    assert trust.is_refuted
    assert trust_of([CLAIM], "alice").short == "claimed"
    taken = replace(refuted, peer="bob")
    assert trust_of([CLAIM, taken], "bob", finder="alice").short == "claimed", "the finder does not adopt her own"


def test_a_replay_is_neither_a_keep_nor_a_discard() -> None:
    again = (replace(AGAIN, peer="bob"), replace(AGAIN, peer="carol", decision=DIFFERS))
    assert status_of(again) == "unclear"
    assert status_of([CLAIM, *again]) == "kept"
    change = "<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n"
    findings = [Finding(f"f-{n}", "F", "loss", "idea", "x", "0" * 12, "Why.", change) for n in range(5)]
    seen = [replace(findings[0], evidence=again), *findings[1:]]
    assert parse_finding(finding_text(seen[0]), "page") == seen[0]
    alone = replace(seen[0], evidence=(CLAIM,))
    assert relevant_papers([replace(alone, evidence=(CLAIM, *again))], "cpu", ()) == relevant_papers([alone], "cpu", ())
    start = PastExperiment(0, "", "baseline", "", {}, Status.OK, 2.0, True, "")
    for seed in range(5):
        brief = Brief(1, seed, Metric("loss"), "", (), "", {}, 2.0, (start,))
        orders = ([one.id for one in draw_order(brief, some, some, "cpu")] for some in (findings, seen))
        assert next(orders) == next(orders)


def test_who_copies_a_finding_as_discarded_takes_its_claim_from_nobody() -> None:
    change = "<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n"
    said = replace(CLAIM, peer="mallory", decision="discard"), CLAIM, replace(CLAIM, peer="bob")
    copied = Finding("f", "F", "loss", "kept", "peer mallory, run x", "0" * 12, "Why.", change, said)
    assert claimant(copied) == ("alice", "cpu")
    assert claimant(replace(copied, source="peer bob, run x")) == ("bob", "cpu")
    assert claimant(replace(copied, evidence=said[:1])) is None
