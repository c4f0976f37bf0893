"""Where findings are kept: a folder of pages with the texts that they change, and several folders as one library.

What a finding is follows from its base and its change. Its id is a name for it: the user's own are taken as they are,
those of peers are made here, see `id_of_content`, so that no peer can take the id of another finding.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.kinds import TRAINING_FILE, guessed_kind
from autoresearch_jax.edits import MAX_CHARACTERS
from autoresearch_jax.files import plain_text, write_json, write_whole
from autoresearch_jax.findings.format import (
    MAX_BYTES,
    MAX_EVIDENCE,
    MAX_ID_CHARACTERS,
    Evidence,
    Finding,
    FindingError,
    base_digest,
    changed_base,
    diff_change,
    finding_json,
    finding_text,
    read_finding,
    status_of,
    write_finding,
)

SHIPPED = Path(__file__).parent.parent / "ideas"  # the library that comes with the package
OWN = "findings"  # the user's, in the folder of the runs
BASES = "bases"  # folder of the texts that findings change
DIFF_NAME = "train_lib.py"  # that a diff in JSON names
ID_DIGITS = 16  # of the SHA-256 of what a finding changes: another change for the same takes 2^64 tries
MOST_OF_A_PEER = 8  # items of evidence on one finding that are kept, the latest: no peer crowds out the others

_DIGITS = re.compile(rf"(-?\b[0-9a-f]{{{ID_DIGITS}}})+$")  # at the end of an id


def id_of_content(finding: Finding) -> str:
    """The id that a finding has among peers: words of its own id, and digits of its base and its change."""
    digits = _content_digits(finding)
    words = _DIGITS.sub("", finding.id)[: MAX_ID_CHARACTERS - len(digits) - 1].strip("-")
    return f"{words or 'change'}-{digits}"


def is_named(finding: Finding, name: str) -> bool:
    """Whether a name is a finding's id, or one that it has at another peer."""
    return name == finding.id or name.endswith(f"-{_content_digits(finding)}")


def _content_digits(finding: Finding) -> str:
    content = "\n".join(finding.content).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:ID_DIGITS]


class FindingStore(Protocol):
    """Where findings come from and go to."""

    def findings(self) -> Sequence[Finding]:
        """All of them, by their ids."""

    def base_text(self, digest: str) -> str | None:
        """The text that findings of this base change; None where it is not known."""

    def add(self, finding: Finding, base_text: str | None) -> str:
        """Stores a finding, or its evidence where the same change is there already; returns what was done in words.

        Raises:
          FindingError: another change has its id, it does not fit its base, or it cannot be stored.
        """


class FindingFolder:
    """A folder with `ID.md`, `ID.json` and `bases/DIGEST.txt`, which others may write to meanwhile."""

    def __init__(self, path: Path, notice: Callable[[str], None]) -> None:
        """`notice` is told of each page that cannot be read, once; the others are read all the same."""
        self.path = path
        self._notice = notice
        self._read: dict[Path, tuple[tuple[int, int], Finding | None]] = {}  # by what `stat` says of the page

    def findings(self) -> Sequence[Finding]:
        """See `FindingStore.findings`; empty where there is no such folder."""
        found = (self._page(path) for path in sorted(self.path.glob("*.md")))
        return [finding for finding in found if finding is not None]

    def _page(self, path: Path) -> Finding | None:
        try:
            stat = path.stat()
            known, finding = self._read.get(path, (None, None))
            if known == (stat.st_mtime_ns, stat.st_size):
                return finding
            finding = read_finding(path)
        except FindingError as error:
            finding = None
            self._notice(f"{error}: left out")
        except OSError:  # removed meanwhile
            return None
        self._read[path] = (stat.st_mtime_ns, stat.st_size), finding
        return finding

    def base_text(self, digest: str) -> str | None:
        """See `FindingStore.base_text`; None, too, for a file that has another text than its name says."""
        with suppress(OSError, UnicodeDecodeError):
            path = self.path / BASES / f"{digest}.txt"
            if path.stat().st_size <= 4 * MAX_CHARACTERS:
                text = plain_text(path.read_bytes())
                return text if base_digest(text) == digest else None
        return None

    def add(self, finding: Finding, base_text: str | None, diff: str | None = None) -> str:
        """See `FindingStore.add`; `diff` is the change as a unified diff, where it is known to be the same.

        Among ids of peers the digits tell the page that has the same change.
        """
        done = "added"
        path = self.path / f"{finding.id}.md"
        if not path.exists():
            path = next(self.path.glob(f"*-{_content_digits(finding)}.md"), path)
        if path.exists():
            there = read_finding(path)
            _require_same(there, finding, path)
            merged = merge_evidence(there, finding)
            if merged == there:
                return "is there already"
            finding, done = merged, "evidence added"
        if len(finding.evidence) > MAX_EVIDENCE or len(finding_text(finding).encode()) > MAX_BYTES:
            raise FindingError(f"{path}: has no room for this: at most {MAX_EVIDENCE} items and {MAX_BYTES:,} bytes")
        if diff is None and base_text is not None:
            asset = guessed_kind(base_text)
            diff = diff_change(base_text, changed_base(finding, base_text, asset), DIFF_NAME, asset)
        try:
            (self.path / BASES).mkdir(parents=True, exist_ok=True)
            if base_text is not None and self.base_text(finding.base) is None:
                write_whole(self.path / BASES / f"{finding.base}.txt", base_text)
            write_json(path.with_suffix(".json"), finding_json(finding, diff or finding.change))
            write_finding(path, finding)
        except OSError as error:
            raise FindingError(f"{path}: cannot be written: {error.strerror}: name another folder") from error
        return done


class Library:
    """Several stores as one: of findings with the same change the evidence is put together."""

    def __init__(
        self, stores: Sequence[FindingStore], notice: Callable[[str], None], others: Sequence[FindingStore] = ()
    ) -> None:
        """Puts stores together; new findings go to the last of the first ones.

        `notice` is told, once each, of findings that are left out, since another has their id.
        """
        self._own = stores[-1]
        self._stores = [*stores, *others]
        self._notice = notice
        self._told: set[str] = set()

    def findings(self) -> Sequence[Finding]:
        """See `FindingStore.findings`; of the same change the id that the earliest store has for it."""
        found: dict[object, Finding] = {}
        ids: dict[str, object] = {}
        for store in self._stores:
            for finding in store.findings():
                content = finding.content
                if (there := found.get(content)) is not None:
                    found[content] = merge_evidence(there, finding)
                elif ids.setdefault(finding.id, content) == content:
                    found[content] = finding
                elif finding.id not in self._told:
                    self._told.add(finding.id)
                    self._notice(f"{finding.id}: left out, another finding has this id: rename it")
        return sorted(found.values(), key=lambda finding: finding.id)

    def base_text(self, digest: str) -> str | None:
        """See `FindingStore.base_text`."""
        texts = (store.base_text(digest) for store in self._stores)
        return next((text for text in texts if text is not None), None)

    def get(self, name: str) -> Finding:
        """The finding of an id, or of one that a peer has for it.

        Raises:
          FindingError: there is none.
        """
        found = [finding for finding in self.findings() if is_named(finding, name)]
        if not found:
            raise FindingError(f"{name}: no finding of this id: `autoresearch findings list` has all")
        return next((finding for finding in found if finding.id == name), found[0])

    def add(self, finding: Finding, base_text: str | None) -> str:
        """See `FindingStore.add`; the same change keeps the id that it has here."""
        known = self.findings()
        there = next((one for one in known if one.content == finding.content), None)
        if there is None:
            for one in known:
                if one.id == finding.id:
                    _require_same(one, finding, None)
            return self._own.add(finding, base_text)
        again = "" if there.id == finding.id else f", as {there.id}"
        if merge_evidence(there, finding) == there:
            return f"is there already{again}"
        return self._own.add(replace(finding, id=there.id), base_text) + again


def open_library(
    folder: Path,
    notice: Callable[[str], None],
    asset: AssetKind = TRAINING_FILE,
    peers: Path | None = None,
    stores: Sequence[FindingStore] = (),
) -> Library:
    """The findings in a user's folder, those of peers and stores, and the shipped ones where they are of this kind.

    The folders need not exist; what is added goes to the user's.
    """
    folders = [SHIPPED, folder] if asset == TRAINING_FILE else [folder]
    others = [*stores] if peers is None else [*stores, FindingFolder(peers, notice)]
    return Library([FindingFolder(path, notice) for path in folders], notice, others)


def merge_evidence(first: Finding, second: Finding) -> Finding:
    """The first finding with the evidence of both, the second's where both have it of one experiment.

    Of each peer it has the last `MOST_OF_A_PEER`.
    """
    counts: Counter[str] = Counter()
    found: list[Evidence] = []
    for one in reversed({origin_of(one): one for one in (*first.evidence, *second.evidence)}.values()):
        counts[one.peer] += 1
        if not one.peer or counts[one.peer] <= MOST_OF_A_PEER:
            found.append(one)
    evidence = tuple(reversed(found))
    return first if evidence == first.evidence else replace(first, evidence=evidence, status=status_of(evidence))


def origin_of(evidence: Evidence) -> object:
    """What tells one measurement from another; of an experiment that goes on to be measured it stays the same."""
    if not evidence.replay:
        return evidence
    return evidence.peer, evidence.device, evidence.fingerprint, evidence.budget, evidence.date, evidence.replay


def _require_same(there: Finding, finding: Finding, path: Path | None) -> None:
    if there.content != finding.content:
        where = "" if path is None else f" in {path.parent}"
        raise FindingError(f"{finding.id}: another finding has this id{where}: rename the one to be added")
