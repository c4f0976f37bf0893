"""What a peer has still to push: a file each, so that a kill loses nothing and a network that is away delays it."""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoresearch_jax.files import write_whole
from autoresearch_jax.findings.folder import id_of_content
from autoresearch_jax.findings.format import MAX_BYTES, Finding, FindingError
from autoresearch_jax.sanitize import blanks, clean_line, secret_values
from autoresearch_jax.swarm.chain import MAX_COMMIT_BYTES, PAGE, champion_files, finding_files
from autoresearch_jax.swarm.store import CHAMPIONS, FINDINGS, tree_name


@dataclass(frozen=True)
class Entry:
    """A commit to be made."""

    path: Path  # where it waits
    kind: str  # of the chain that it goes to
    files: Mapping[str, bytes]  # its files
    message: str  # its message

    @property
    def tree(self) -> str:
        """The name of its tree; what has the same is the same."""
        return tree_name(self.files)


class Outbox:
    """A folder of entries, the oldest first by their names."""

    def __init__(self, path: Path, peer: str, environment: Mapping[str, str]) -> None:
        """`environment` is this process's: nothing that holds a secret of it gets out."""
        self.path = path
        self._peer = peer
        self._secrets = list(blanks(secret_values(environment)))

    def put_finding(self, finding: Finding, base_text: str) -> None:
        """Has a finding pushed, under the id that it has among peers.

        Raises:
          FindingError: it does not fit its base, is too large, holds a secret, or cannot be stored.
        """
        finding = replace(finding, id=id_of_content(finding))
        self.put(FINDINGS, finding_files(finding, base_text, self._peer), f"{finding.id}: {finding.title}")

    def put_champion(self, words: Mapping[str, Any], text: str) -> None:
        """Has this peer's champion pushed; one that waits already is replaced.

        Raises:
          FindingError: see `put_finding`.
        """
        waiting = self.waiting(CHAMPIONS)
        self.put(CHAMPIONS, champion_files(words, text, self._peer), "champion")
        self.remove(waiting)

    def put(self, kind: str, files: Mapping[str, bytes], message: str) -> None:
        """Has a commit of these files pushed.

        Raises:
          FindingError: see `put_finding`.
        """
        message = clean_line(message)
        if len(files.get(PAGE, b"")) > MAX_BYTES or sum(map(len, files.values())) > MAX_COMMIT_BYTES:
            raise FindingError(f"{message}: more than {MAX_COMMIT_BYTES:,} bytes are not sent")
        if any(secret.encode() in content for content in files.values() for secret in self._secrets):
            raise FindingError(f"{message}: holds the value of a variable that is named as a secret: not sent")
        texts = {name: content.decode() for name, content in files.items()}
        path = self.path / f"{time.time_ns():020}-{tree_name(files)[:12]}.json"
        try:
            write_whole(path, json.dumps({"kind": kind, "message": message, "files": texts}))
        except OSError as error:
            raise FindingError(f"{path}: cannot be written: {error.strerror}") from error

    def waiting(self, kind: str | None = None) -> list[Entry]:
        """The entries of a kind, or all, the oldest first; what cannot be read is left out."""
        found = []
        for path in sorted(self.path.glob("[0-9]*.json")):
            try:
                given = json.loads(path.read_text(encoding="utf-8"))
                files = {str(name): str(text).encode() for name, text in given["files"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if kind in (None, given["kind"]) and all(re.fullmatch(r"[\w.-]+", name) for name in files):
                found.append(Entry(path, given["kind"], files, given["message"]))
        return found

    def names(self) -> frozenset[str]:
        """The names of the files that wait; a new one is another entry, perhaps of another process."""
        return frozenset(path.name for path in self.path.glob("[0-9]*.json"))

    def remove(self, entries: Iterable[Entry]) -> None:
        """Takes entries out that were pushed."""
        for entry in entries:
            entry.path.unlink(missing_ok=True)
