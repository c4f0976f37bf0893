"""Whose a finding is: how a source names the peer, and what peers claim."""

import re

from autoresearch_jax.findings.format import Finding
from autoresearch_jax.sanitize import clean_line

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
