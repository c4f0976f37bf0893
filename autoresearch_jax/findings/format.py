"""A finding: a change of an asset and what measuring it gave, as a page of Markdown.

The page has front matter (YAML), a few lines of prose, and a section `## Change`, the last one, with SEARCH/REPLACE
blocks or a unified diff against a named base. docs/guide/findings.md describes each key.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.edits import Edit, EditError, apply_edits, read_edits, unfenced, unix_lines
from autoresearch_jax.errors import UserError
from autoresearch_jax.files import write_whole
from autoresearch_jax.findings.front_matter import (
    MAX_VALUE_CHARACTERS,
    as_number,
    as_share,
    as_truth,
    as_whole,
    compose,
    line_of,
    read_mapping,
    read_text,
)
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.types import Merge, Scalar

STATUSES = ("idea", "kept", "refuted", "unclear")
MAX_ID_CHARACTERS = 40
MAX_TITLE_CHARACTERS = 120
MAX_BYTES = 256 * 1024  # of a page; one with a whole file as its change has about 60,000
MAX_EVIDENCE = 500  # items on a page
CLEAR = 2.0  # standard deviations of an effect below zero, beyond which it is a refutation
BASE_DIGITS = 12  # of the SHA-256 of a base's text
LEAST_SHARED = 0.25  # of a base's lines that a text must have to be merged with it, which takes a tenth of a second

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_BASE = re.compile(rf"[0-9a-f]{{{BASE_DIGITS}}}")
_CONTEXT_LINES = (3, 8, 20, 1 << 20)  # of a diff: the first that leaves each hunk one place


class FindingError(UserError):
    """A finding that cannot be read or applied; the message names the file and line, or the finding."""


@dataclass(frozen=True)
class Evidence:
    """What measuring a finding's change gave, on one machine."""

    device_class: str  # see `device_class`
    fingerprint: str  # of the task; effects under different ones are not comparable
    budget: str  # of a run, such as "20 s" or "300 steps"
    runs: int  # of the change; those of what it was compared with are not counted
    decision: str  # "keep", "discard", or the status of a failure, such as "crash"
    date: str  # the day, such as "2026-11-29"
    effect: float | None = None  # gain in the metric's unit, positive where it is better; None for a failure
    error: float | None = None  # standard deviation of the effect
    probability: float | None = None  # that the gain is above its price
    certified: bool = False  # whether the edit was certified as an improvement
    device: str = ""  # its full name
    seconds: float | None = None  # that proposing, checking and measuring took
    dollars: float | None = None  # that proposing cost
    replay: str = ""  # command that measures it again
    sigma: float | None = None  # standard deviation of a run there, in the metric's unit
    seed: int | None = None  # of its first run, as are the following
    steps: int | None = None  # that the run made
    value: float | None = None  # its score
    peer: str = ""  # name of the peer in whose chain it was read; empty for what was measured here or is shipped
    claim: str = ""  # of a replay, see `findings.trust`: name of the peer whose program was run again


@dataclass(frozen=True)
class Finding:
    """A change of an asset, where it comes from and what it rests on."""

    id: str  # lower-case words joined by hyphens; also the name of its page
    title: str  # one line: what is changed
    category: str  # kind of change, such as one of `proposers.base.DEFAULT_CATEGORIES`
    status: str  # one of `STATUSES`
    source: str  # paper, page or run that it comes from
    base: str  # `base_digest` of the text that it changes
    about: str  # prose
    change: str  # SEARCH/REPLACE blocks or a unified diff, without a fence
    evidence: tuple[Evidence, ...] = ()  # of each time that it was measured

    @cached_property
    def edits(self) -> Sequence[Edit]:
        """The change; raises EditError, but not for a finding that was read."""
        return read_edits(self.change)

    @property
    def content(self) -> tuple[str, str]:
        """Its base and its change, which make it what it is under any id."""
        return self.base, self.change.strip()


def status_of(evidence: Sequence[Evidence]) -> str:
    """What all evidence together says of a change: "kept", "refuted" or "unclear"; "idea" where there is none."""
    if not evidence:
        return "idea"
    found = {_status_of_one(one) for one in evidence} - {"unclear"}
    return found.pop() if len(found) == 1 else "unclear"


def _status_of_one(one: Evidence) -> str:
    if one.decision == "keep":
        return "kept"
    is_clear = one.effect is not None and one.error is not None and one.effect + CLEAR * one.error < 0
    return "refuted" if is_clear else "unclear"


def base_digest(text: str) -> str:
    """The name of a base: the first hexadecimal digits of the SHA-256 of its text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:BASE_DIGITS]


def device_class(terms: Mapping[str, Scalar]) -> str:
    """The class of devices that evidence is shared among: "cpu" for all CPUs, else the number and name of devices.

    Args:
      terms: a run's settings, or the terms of its task: "platform", "device_kind" and "num_devices".
    """
    kind, count = clean_line(str(terms.get("device_kind") or "unknown")), terms.get("num_devices") or 1
    if terms.get("platform") == "cpu":
        return "cpu"
    return kind if count == 1 else f"{count} x {kind}"


def apply_finding(
    finding: Finding, champion_source: str, base_text: str | None, merge: Merge, asset: AssetKind = TRAINING_FILE
) -> str:
    """The champion's text with a finding's change.

    The edits are placed in the champion first. Where that fails, they are applied to their base and the result is
    merged with the champion.

    Args:
      finding: whose change.
      champion_source: the text to change.
      base_text: the text that the finding was made for; None where it is not known.
      merge: a three-way merge.

    Raises:
      FindingError: it does not fit, or the champion has it already.
    """
    try:
        return apply_edits(champion_source, finding.edits, asset)
    except EditError as error:
        if error.unchanged:
            raise FindingError(f"{finding.id}: the text has this change already") from error
        why = error.first
        if base_text is None:
            where = f"bases/{finding.base}.txt"
            raise FindingError(f"{finding.id}: does not fit, and there is no {where}: {why}") from error
    if _shared_lines(base_text, champion_source) < LEAST_SHARED:
        raise FindingError(f"{finding.id}: does not fit: the text has little in common with its base")
    changed = changed_base(finding, base_text, asset)
    merged = merge(base_text, champion_source, changed)
    if merged is None:
        raise FindingError(f"{finding.id}: does not fit: the text differs from its base in the same lines: {why}")
    try:
        if asset.tree(merged) == asset.tree(champion_source):
            raise FindingError(f"{finding.id}: the text has this change already")
    except AssetSyntaxError as error:
        raise FindingError(f"{finding.id}: does not fit: merged, the text does not parse: {error}") from error
    return merged


def _shared_lines(base: str, text: str) -> float:
    """The share of the base's lines that a text has, too."""
    lines, others = ({line for line in side.split("\n") if line.strip()} for side in (base, text))
    return len(lines & others) / max(1, len(lines))


def changed_base(finding: Finding, base_text: str, asset: AssetKind = TRAINING_FILE) -> str:
    """The base with the finding's change.

    Raises:
      FindingError: that is not its base, or the change does not fit it.
    """
    if base_digest(base_text) != finding.base:
        raise FindingError(f"{finding.id}: bases/{finding.base}.txt has another text than its name says: restore it")
    try:
        return apply_edits(base_text, finding.edits, asset)
    except EditError as error:
        raise FindingError(f"{finding.id}: does not fit its own base: {error.first}") from error


def diff_change(before: str, after: str, name: str, asset: AssetKind = TRAINING_FILE) -> str:
    """A unified diff that `read_edits` and `apply_edits` take from one text to the other exactly.

    Raises:
      FindingError: no diff does, since `before` equals `after` or one of them does not parse.
    """
    old, new = (unix_lines(text) for text in (before, after))
    why = "nothing differs"
    for context in _CONTEXT_LINES:
        lines = difflib.unified_diff(old.split("\n"), new.split("\n"), f"a/{name}", f"b/{name}", lineterm="", n=context)
        change = "\n".join(lines)
        try:
            if change and apply_edits(old, read_edits(change), asset) == new:
                return change + "\n"
        except EditError as error:
            why = clean_line(str(error))
    raise FindingError(f"{name}: the change cannot be written as a diff: {why}")


def read_finding(path: Path) -> Finding:
    """Reads a page; words of others are cleaned of what a terminal would take for a command.

    Raises:
      FindingError: it is no finding; the message has the file and the line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FindingError(f"{path}: has more than {MAX_BYTES:,} bytes, and a finding has fewer")
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FindingError(f"{path}: cannot be read: {error}") from error
    return parse_finding(text, str(path), path.stem)


def parse_finding(text: str, name: str, stem: str | None = None) -> Finding:
    """A finding from the text of its page.

    Args:
      text: the page.
      name: what messages call it.
      stem: the id that it must have; None for any.

    Raises:
      FindingError: see `read_finding`.
    """
    return _Page(name, unix_lines(text).split("\n")).finding(stem)


def write_finding(path: Path, finding: Finding) -> None:
    """Writes a page, whole or not at all."""
    write_whole(path, finding_text(finding))


def finding_text(finding: Finding) -> str:
    """The page of a finding."""
    head = "\n".join(_front_matter(finding))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", finding.change)), default=0))
    language = "" if "<<<<<<< SEARCH" in finding.change else "diff"
    change = finding.change.strip("\n")
    return f"---\n{head}\n---\n\n{finding.about.strip()}\n\n## Change\n\n{fence}{language}\n{change}\n{fence}\n"


def finding_json(finding: Finding, diff: str) -> dict[str, Any]:
    """A finding as JSON has it, its change as a unified diff."""
    plain = {name: getattr(finding, name) for name in ("id", "title", "category", "status", "source", "base", "about")}
    return {**plain, "change": diff, "evidence": [vars(item).copy() for item in finding.evidence]}


def _front_matter(finding: Finding) -> list[str]:
    """The lines between the marks."""
    lines = [f"{name}: {_scalar(getattr(finding, name))}" for name in _KEYS]
    lines.append("evidence:" if finding.evidence else "evidence: []")
    for item in finding.evidence:
        given = {own.name: getattr(item, own.name) for own in fields(Evidence)}
        given = {name: value for name, value in given.items() if value not in (None, "") and value is not False}
        for place, (name, value) in enumerate(given.items()):
            lines.append(f"{'    ' if place else '  - '}{name}: {_scalar(value)}")
    return lines


_KEYS = ("id", "title", "category", "status", "source", "base")
_LIMITS = {"title": MAX_TITLE_CHARACTERS}
_READERS: Mapping[str, Callable[[str], Any]] = {
    "certified": as_truth,
    "probability": as_share,
    **dict.fromkeys(("runs", "seed", "steps"), as_whole),
    **dict.fromkeys(("effect", "error", "seconds", "dollars", "sigma", "value"), as_number),
}
_PLAIN = re.compile(
    r"(?!(?:y|yes|no?|on|off|true|false|null)$)[a-z](?:[\w ./+%-]*\w)?|https?://[\w./?=&%+~-]+",
    re.ASCII | re.IGNORECASE,
)


def _scalar(value: Any) -> str:
    """A value as YAML: JSON, which is YAML too, but for words that are read as themselves without quotes."""
    is_plain = isinstance(value, str) and _PLAIN.fullmatch(value)
    return value if is_plain else json.dumps(value, ensure_ascii=False)


class _Page:
    """A page that is being read; lines count from 1."""

    def __init__(self, name: str, lines: Sequence[str]) -> None:
        self._name = name
        self._lines = lines

    def _error(self, line: int, what: str) -> FindingError:
        return FindingError(f"{self._name}:{line}: {clean_line(what)}")

    def finding(self, stem: str | None) -> Finding:
        lines = self._lines
        if lines[0].rstrip() != "---" or "---" not in (rest := [line.rstrip() for line in lines[1:]]):
            raise self._error(1, "a finding begins with front matter between two lines ---")
        end = rest.index("---") + 1  # row of the second mark, from 0
        found = read_mapping(compose("\n".join(lines[1:end]), self._error), (*_KEYS, "evidence"), self._error)
        if missing := [key for key in _KEYS if key not in found]:
            raise self._error(end + 1, f"no {', no '.join(missing)}")
        given = {key: read_text(key, found[key], self._error, _LIMITS.get(key, MAX_VALUE_CHARACTERS)) for key in _KEYS}
        self._check(given, found, stem)
        evidence = self._evidence(found["evidence"][1]) if "evidence" in found else ()
        heading = next((row for row in range(end + 1, len(lines)) if lines[row].rstrip() == "## Change"), None)
        if heading is None:
            raise self._error(len(lines), 'no section "## Change"')
        given["about"] = clean_block("\n".join(lines[end + 1 : heading]))
        given["change"] = unfenced("\n".join(lines[heading + 1 :])).strip("\n") + "\n"
        self._check_change(given["change"], heading)
        return Finding(**given, evidence=evidence)

    def _check(self, given: Mapping[str, str], found: Mapping[str, tuple[int, Any]], stem: str | None) -> None:
        lines = {key: place[0] for key, place in found.items()}
        if not _ID.fullmatch(given["id"]) or len(given["id"]) > MAX_ID_CHARACTERS:
            rule = f"lower-case words joined by hyphens, at most {MAX_ID_CHARACTERS} characters"
            raise self._error(lines["id"], f"id {given['id']}: {rule}")
        if stem is not None and given["id"] != stem:
            raise self._error(lines["id"], f"id {given['id']}: the file has to be named {given['id']}.md")
        if given["status"] not in STATUSES:
            raise self._error(lines["status"], f"status {given['status']}: one of {', '.join(STATUSES)}")
        if not _BASE.fullmatch(given["base"]):
            rule = f"the first {BASE_DIGITS} hexadecimal digits of the SHA-256 of a text"
            raise self._error(lines["base"], f"base {given['base']}: {rule}")

    def _check_change(self, change: str, heading: int) -> None:
        try:
            if not read_edits(change):
                raise self._error(heading + 1, "the change has no SEARCH/REPLACE block and no hunk of a unified diff")
        except EditError as error:
            raise self._error(heading + 1, f"the change: {error}") from error

    def _evidence(self, node: Any) -> tuple[Evidence, ...]:
        if node.id != "sequence":
            raise self._error(line_of(node), "evidence: expected a list, or [] for none")
        if len(node.value) > MAX_EVIDENCE:  # an alias of one takes 6 bytes
            raise self._error(line_of(node), f"evidence: more than {MAX_EVIDENCE} items")
        return tuple(self._item(item) for item in node.value)

    def _item(self, node: Any) -> Evidence:
        found = read_mapping(node, [own.name for own in fields(Evidence)], self._error)
        needed = ("device_class", "fingerprint", "budget", "runs", "decision", "date")
        if missing := [name for name in needed if name not in found]:
            raise self._error(line_of(node), f"evidence without {', '.join(missing)}")
        values: dict[str, Any] = {}
        for name, place in found.items():
            word = read_text(name, place, self._error)
            try:
                values[name] = _READERS.get(name, str)(word)
            except ValueError as error:
                raise self._error(place[0], f"{name}: {word} is {error}") from error
        return Evidence(**values)
