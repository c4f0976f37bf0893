"""What others say of a peer's claim: who ran it again, adopted it, or refuted it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoresearch_jax.findings.format import Evidence, Finding, status_of
from autoresearch_jax.sanitize import clean_line, counted

_PEER = re.compile(r"peer ([^,\s]+), ")


def source_of_peer(peer: str, source: str) -> str:
    """The source of a finding as it is stored by those who read it in a peer's chain."""
    return clean_line(f"peer {peer}, {source}")


def peer_of_source(source: str) -> str | None:
    """The peer in whose chain a finding was read first; None of one that was not read in a chain."""
    found = _PEER.match(source)
    return None if found is None else found[1]


def claimant(finding: Finding) -> tuple[str, str] | None:
    """The peer who says that a finding is a gain, and its device class; None if there is none.

    That is the one in whose chain it was read first, if that one kept it; else the first peer who did.
    """
    first = peer_of_source(finding.source)
    claims = [(one.peer, one.device_class) for one in finding.evidence if one.peer and one.decision == "keep"]
    return next((claim for claim in claims if claim[0] == first), next(iter(claims), None))


REPLAYED, DIFFERS = "replayed", "differs"  # decisions of a replay: it gave what was claimed, or something else


@dataclass(frozen=True)
class Trust:
    """Numbers of other peers."""

    equal: int = 0  # whose replay gave the claimed score bit by bit
    within: int = 0  # whose replay gave it within its noise
    differing: int = 0  # whose replay gave another one
    adopted: int = 0  # that kept the change in a run of their own
    classes: int = 0  # device classes of those runs
    refuted: int = 0  # that refuted it there

    @property
    def is_confirmed(self) -> bool:
        """Whether another peer found the claim to be so."""
        return self.equal + self.within + self.adopted > 0

    @property
    def is_refuted(self) -> bool:
        """Whether another peer found otherwise."""
        return self.differing + self.refuted > 0

    @property
    def short(self) -> str:
        """For a column of a table."""
        parts = {"equal": self.equal, "within noise": self.within, "differs": self.differing}
        parts |= {"adopted": self.adopted, "refuted": self.refuted}
        return ", ".join(f"{count} {word}" for word, count in parts.items() if count) or "claimed"

    def sentence(self, claimant: str) -> str:
        """For a page."""
        said = f"Claimed by {claimant}, signed. "
        replayed = self.equal + self.within + self.differing
        parts = {"equal bits": self.equal, "within noise": self.within, "differs": self.differing}
        words = ", ".join(f"{count} {word}" for word, count in parts.items() if count)
        said += f"Replayed by {counted(replayed, 'other peer')}: {words}. " if words else "Replayed by no other peer. "
        classes = counted(self.classes, "device class", "device classes")
        said += f"Adopted by {self.adopted} on {classes}, refuted by {self.refuted}."
        return said


def is_replay(evidence: Evidence) -> bool:
    """Whether it is of a program that was run again, which says nothing of a gain."""
    return evidence.decision in (REPLAYED, DIFFERS)


def only_replays(finding: Finding) -> bool:
    """Whether a page says nothing of a finding but what running its program again gave."""
    return bool(finding.evidence) and all(map(is_replay, finding.evidence))


def without_replays(finding: Finding) -> Finding:
    """A finding with the evidence that says something of a gain."""
    return replace(finding, evidence=tuple(one for one in finding.evidence if not is_replay(one)))


def trust_of(evidence: Sequence[Evidence], claimant: str, finder: str | None = None) -> Trust:
    """What others say of a peer's claim.

    Args:
      evidence: on one finding, of all peers, each with its name.
      claimant: the peer; what it says of its own claim does not count.
      finder: the peer that it took the finding from, which adopts or refutes nothing by its own claim.
    """
    claimed = {(one.seed, one.value) for one in evidence if one.peer == claimant and not is_replay(one)}
    others = [one for one in evidence if one.peer != claimant]
    replays = {one.peer: one for one in others if is_replay(one) and one.claim == claimant}.values()
    agreeing = [one for one in replays if one.decision == REPLAYED]
    equal = sum(one.steps is not None and (one.seed, one.value) in claimed for one in agreeing)
    others = [one for one in others if one.peer != finder]
    adopted = [one for one in others if one.decision == "keep"]
    return Trust(
        equal=equal,
        within=len(agreeing) - equal,
        differing=len(replays) - len(agreeing),
        adopted=len({one.peer for one in adopted}),
        classes=len({one.device_class for one in adopted}),
        refuted=len({one.peer for one in others if status_of([one]) == "refuted"}),
    )
