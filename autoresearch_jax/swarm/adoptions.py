"""Who found what, and who adopted it: what the papers of all peers say together."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from autoresearch_jax.findings.trust import is_replay, peer_of_source
from autoresearch_jax.swarm.contents import Paper

KEEP, DISCARD = "keep", "discard"  # decisions of evidence; others are of replays, or statuses of failures


class Result(StrEnum):
    """What came of a finding at a peer who tried it."""

    ADOPTED = "adopted"
    DISCARDED = "discarded"
    FAILED = "failed"


@dataclass(frozen=True)
class Answer:
    """What another peer than the finder says of a finding."""

    peer: str  # its name
    device_class: str  # that it was tried on; the peer's word
    result: Result  # what came of it, by the latest that the peer says
    date: int  # since when it says so, in seconds since the epoch by its clock, but not before the finding was there


@dataclass(frozen=True)
class SharedFinding:
    """A finding that a peer kept, with what came of it at others."""

    id: str  # of the finding
    title: str  # the finder's word, as `found_on` is
    finder: str  # the peer who kept it first
    found_on: str  # class of device of that
    found_at: int  # date of the finder's paper, in seconds since the epoch by its clock
    answers: tuple[Answer, ...]  # the latest of each other peer and class of device, in order of their dates

    @property
    def adoptions(self) -> tuple[Answer, ...]:
        """The first adoption by each peer, in order of their dates: the n-th makes n adopters."""
        first: dict[str, Answer] = {}
        for answer in self.answers:
            if answer.result is Result.ADOPTED:
                first.setdefault(answer.peer, answer)
        return tuple(first.values())


def shared_findings(papers: Iterable[Paper]) -> list[SharedFinding]:
    """The findings that a peer kept, those that most others adopted first.

    Args:
      papers: of all peers, those of each in the order of its chain.
    """
    groups: dict[object, list[Paper]] = {}
    for paper in papers:
        groups.setdefault(paper.finding.content, []).append(paper)
    found = [one for group in groups.values() if (one := _shared(group)) is not None]
    return sorted(found, key=lambda one: (-len(one.adoptions), one.found_at, one.id, one.finder))


def all_adoptions(findings: Iterable[SharedFinding]) -> list[tuple[Answer, SharedFinding]]:
    """The adoptions of findings together, in order of their dates: the n-th makes n."""
    found = [(one, finding) for finding in findings for one in finding.adoptions]
    return sorted(found, key=lambda pair: (pair[0].date, pair[0].peer, pair[1].id))


def _shared(papers: list[Paper]) -> SharedFinding | None:
    """What papers on the same change say; None where no peer kept it.

    Who read it of a peer did not find it, although the clock of that one may be ahead.
    """
    claims = [
        (peer_of_source(paper.finding.source) is not None, paper.commit.date, paper.peer, one.device_class)
        for paper in papers
        for one in paper.finding.evidence
        if one.decision == KEEP
    ]
    if not claims:
        return None
    _, found_at, finder, found_on = min(claims)
    latest: dict[tuple[str, str], Answer] = {}
    for paper in sorted(papers, key=lambda paper: paper.commit.date):
        for one in paper.finding.evidence:
            if paper.peer == finder or is_replay(one):
                continue
            result = {KEEP: Result.ADOPTED, DISCARD: Result.DISCARDED}.get(one.decision, Result.FAILED)
            answer = Answer(paper.peer, one.device_class, result, max(paper.commit.date, found_at))
            before = latest.get((paper.peer, one.device_class))
            if before is None or before.result is not result:
                latest[paper.peer, one.device_class] = answer
    answers = tuple(sorted(latest.values(), key=lambda one: (one.date, one.peer, one.device_class)))
    title = next(paper.finding.title for paper in papers if paper.peer == finder)
    return SharedFinding(papers[0].finding.id, title, finder, found_on, found_at, answers)
