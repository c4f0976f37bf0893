"""What a proposer is told of the findings of peers: the most relevant for its class of device, a line each."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean

from autoresearch_jax.findings.format import MAX_TITLE_CHARACTERS, Evidence, Finding
from autoresearch_jax.findings.trust import without_replays
from autoresearch_jax.sanitize import clean_line, quoted

MOST_PAPERS = 5
MAX_PAPERS_BYTES = 1500  # of UTF-8, of all lines together
MOST_MEASURED = 3  # classes of devices, and decisions, that a line tells of
MOST_NAMES = 3  # of peers in one of these
MOST_SIGMA = 10.0  # of an effect that is believed
NAME_CHARACTERS = 40


def relevant_papers(findings: Iterable[Finding], device_class: str, tried: Collection[str]) -> dict[str, str]:
    """A line for each of the most relevant findings of peers, by their ids, the most relevant first.

    Those measured on the same class of device come first, of these what was kept, of that what was not tried yet, what
    more peers agree on, and what had the larger effect.

    Args:
      findings: with their evidence; what no peer measured is left out.
      device_class: see `findings.format.device_class`.
      tried: ids of findings, and titles, that the run tried.
    """
    lines: dict[str, str] = {}
    room = MAX_PAPERS_BYTES
    measured = map(without_replays, findings)
    of_peers = (finding for finding in measured if any(one.peer for one in finding.evidence))
    for finding in sorted(of_peers, key=lambda finding: _rank(finding, device_class, tried))[:MOST_PAPERS]:
        line = _line(finding, device_class)
        room -= len(f"- {finding.id}: {line}\n".encode())
        if room < 0:
            break
        lines[finding.id] = line
    return lines


def _rank(finding: Finding, device_class: str, tried: Collection[str]) -> tuple[bool, bool, bool, int, float, str]:
    """The lower, the more relevant."""
    every = [one for one in finding.evidence if one.peer]
    own = [one for one in every if one.device_class == device_class]
    kept, lost = ({one.peer for one in own or every if _is_kept(one) is is_kept} for is_kept in (True, False))
    is_kept = len(kept) > len(lost)
    effect = _effect(own or every) or 0.0
    is_tried = finding.id in tried or finding.title in tried
    return not own, not is_kept, is_tried, -len(kept if is_kept else lost), -effect if is_kept else effect, finding.id


def _line(finding: Finding, device_class: str) -> str:
    """A finding's claim and what peers measured, words of theirs in quotes."""
    groups: dict[tuple[bool, bool, str], list[Evidence]] = defaultdict(list)
    for one in finding.evidence:
        if one.peer:
            groups[one.device_class != device_class, not _is_kept(one), one.device_class].append(one)
    measured = []
    for (_, is_lost, where), group in sorted(groups.items())[:MOST_MEASURED]:
        names = sorted({clean_line(one.peer, NAME_CHARACTERS) for one in group})
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        effect = _effect(group)
        words = f"{'not kept' if is_lost else 'kept'} by {', '.join(names[:MOST_NAMES])}{more}"
        words += f" on {quoted(where, NAME_CHARACTERS)}"
        measured.append(words if effect is None else f"{words}, {effect:+.1f} sigma")
    title, category = quoted(finding.title, MAX_TITLE_CHARACTERS), quoted(finding.category, NAME_CHARACTERS)
    return f"{title} ({category}): {'; '.join(measured)}"


def _is_kept(one: Evidence) -> bool:
    return one.decision == "keep"


def _effect(evidence: Sequence[Evidence]) -> float | None:
    """The mean effect in standard deviations of a run; None where none is known."""
    found = [one.effect / one.sigma for one in evidence if one.effect is not None and one.sigma and one.sigma > 0]
    return fmean(max(-MOST_SIGMA, min(effect, MOST_SIGMA)) for effect in found) if found else None
