"""What a run's page shows of the swarm that its folder takes part in: who found what, and who adopted it.

It only reads the peer's folder; the network is not asked. Words of peers are data: the templates escape them.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.findings.format import Finding
from autoresearch_jax.sanitize import clean_line, counted
from autoresearch_jax.swarm.adoptions import Answer, Result, SharedFinding, all_adoptions, shared_findings
from autoresearch_jax.swarm.contents import open_own_library, read_swarm
from autoresearch_jax.swarm.membership import SwarmFolder

LOOK_SECONDS = 30.0  # between two looks whether the folder changed; peers poll each minute
MOST_ROWS = 15  # of the table
MOST_LINES = 8  # of the chart
MOST_ANSWERS = 5  # peers in a cell
TITLE, CLASS = 60, 40  # characters of a title in the chart, and of a class of device
# A ref that moves renames a file in its folder, or is in one of the files
_WATCHED = (
    "swarm.json",
    "blocked",
    "store.git/packed-refs",
    "store.git/reftable",
    "store.git/refs/seen/findings",
    "store.git/refs/seen/champions",
    "store.git/refs/autoresearch/findings",
)


@dataclass(frozen=True)
class SwarmView:
    """What is known of a swarm.

    Attributes:
      name: of this peer.
      peers: others, of whom something was read.
      read: findings that were read.
      sent: findings of this peer.
      findings: those that a peer kept, the most adopted first; see `shared_findings`.
      trouble: why nothing can be said; empty where it was read.
    """

    name: str = ""
    peers: int = 0
    read: int = 0
    sent: int = 0
    findings: Sequence[SharedFinding] = ()
    trouble: str = "the swarm's folder is being read"

    @property
    def own_adopted(self) -> int:
        """This peer's findings that others adopted."""
        return sum(one.finder == self.name and bool(one.adoptions) for one in self.findings)

    def sentence(self, adopted: tuple[int, int]) -> str:
        """What was exchanged; `adopted` are the findings that the run tried, and those that it kept."""
        read = f"{counted(self.read, 'finding')} of {counted(self.peers, 'peer')} read, {self.sent} sent"
        tried = f"{adopted[0]} tried in this run, {adopted[1]} of them kept"
        return f"As {self.name}: {read}; {tried}; {self.own_adopted} of its own adopted by others."

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table: a finding, who found it, and who tried it."""
        return [
            {
                "title": one.title,
                "id": one.id,
                "finder": _who(one.finder, one.found_on, one.found_at),
                "adopted": _cell(one.adoptions),
                "others": _cell([answer for answer in one.answers if answer.result is not Result.ADOPTED]),
            }
            for one in self.findings[:MOST_ROWS]
        ]


def swarm_chart(view: SwarmView) -> dict[str, Any]:
    """What the chart draws: of all findings and of the most adopted ones, the adoptions over time.

    Each line has a name and points of a time (UTC), a number of adoptions, and words, which are empty at its end.
    """
    adopted = [one for one in view.findings[:MOST_LINES] if one.adoptions]
    if not adopted:
        return {}
    adoptions = all_adoptions(view.findings)
    begin, end = min(one.found_at for one in adopted), adoptions[-1][0].date
    lines = [
        {
            "name": f"{place} {clean_line(one.title, TITLE)}",
            "points": [
                (_time(one.found_at), 0, f"found by {_on(one.finder, one.found_on)}"),
                *((_time(answer.date), count, _adopted(answer)) for count, answer in enumerate(one.adoptions, 1)),
                (_time(end), len(one.adoptions), ""),
            ],
        }
        for place, one in enumerate(adopted, 1)
    ]
    steps = [
        (_time(answer.date), count, f"{_adopted(answer)}: {clean_line(one.title, TITLE)}")
        for count, (answer, one) in enumerate(adoptions, 1)
    ]
    return {"all": [(_time(begin), 0, ""), *steps], "lines": lines}


def _adopted(answer: Answer) -> str:
    return f"adopted by {_on(answer.peer, answer.device_class)}"


def _on(peer: str, device_class: str) -> str:
    return f"{peer} on {clean_line(device_class, CLASS)}"


def _who(peer: str, device_class: str, date: int) -> str:
    return f"{_on(peer, device_class)}, {datetime.fromtimestamp(date, UTC):%d %b %H:%M}"


def _cell(answers: Sequence[Answer]) -> list[str]:
    """A line an answer, and how many more there are."""
    lines = []
    for one in answers[:MOST_ANSWERS]:
        result = "" if one.result is Result.ADOPTED else f", {one.result}"
        lines.append(_who(one.peer, one.device_class, one.date) + result)
    left = len(answers) - MOST_ANSWERS
    return [*lines, f"and {left} more"] if left > 0 else lines


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def in_background(read: Callable[[], None]) -> None:
    """Calls a function in a thread that does not outlive the process."""
    threading.Thread(target=read, name="swarm", daemon=True).start()


class SwarmReader:
    """Reads a peer's folder, and again when it changed."""

    def __init__(
        self,
        folder: SwarmFolder,
        environment: Mapping[str, str],
        start: Callable[[Callable[[], None]], None] = in_background,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet.

        Args:
          folder: which need not be a peer's.
          environment: of this process, for git.
          start: has a reading done, at once or beside.
          clock: in seconds.
        """
        self._folder = folder
        self._environment = environment
        self._start = start
        self._clock = clock
        self._library = open_own_library(folder)  # which keeps the pages that it read
        self._pages: dict[str, Finding] = {}
        self._view: SwarmView | None = None
        self._seen: object = None  # what `_signature` was when it was read last
        self._due = -1.0
        self._is_reading = False

    def read(self) -> SwarmView | None:
        """All that is there now; None where the folder is no peer's. Takes some milliseconds a finding."""
        if not (self._folder.settings.is_file() and (self._folder.store / "HEAD").is_file()):
            return None  # and none is made
        try:
            swarm = read_swarm(self._folder, self._environment, self._library, self._pages)
        except (UserError, OSError, ValueError) as error:
            return SwarmView(trouble=clean_line(str(error)))
        return SwarmView(
            name=swarm.settings.name,
            peers=len({paper.peer for paper in swarm.read}),
            read=len(swarm.read),
            sent=len(swarm.own),
            findings=shared_findings([*swarm.own, *swarm.read]),
            trouble="",
        )

    def latest(self) -> SwarmView | None:
        """What is known by now; the same object while nothing changed.

        At most every `LOOK_SECONDS` it looks whether something did, and then has it read beside.
        """
        now = self._clock()
        if not self._is_reading and now >= self._due:
            self._due = now + LOOK_SECONDS
            signature = self._signature()
            if signature != self._seen:
                if self._view is None and self._folder.settings.is_file():
                    self._view = SwarmView()
                self._seen, self._is_reading = signature, True
                self._start(self._read_beside)
        return self._view

    def _read_beside(self) -> None:
        try:
            found = self.read()
            if found is not None and found.trouble:
                self._seen = None  # is tried again
            if found != self._view:
                self._view = found
        finally:
            self._is_reading = False

    def _signature(self) -> tuple[object, ...]:
        return tuple(map(_stat, (self._folder.path / name for name in _WATCHED)))


def _stat(path: os.PathLike[str]) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
