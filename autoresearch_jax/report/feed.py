"""What a live page shows of a run, and what changed since: the ledger, read only, and the driver's live.json."""

import logging
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import Live, Running, read_live
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.errors import UserError
from autoresearch_jax.report.history import History, ReportError, read_history
from autoresearch_jax.report.page import WORDS, Part, champions_data, live_page, point_data, run_parts
from autoresearch_jax.report.progress import describe_report, share_of_budget
from autoresearch_jax.report.swarm import SwarmView, swarm_chart
from autoresearch_jax.sanitize import clean_line

KEPT_UPDATES = 100  # for pages that lost the connection; older ones load the page again
Event = dict[str, Any]  # "event" and "data", and "id" of what a page may go on from


@dataclass
class _Shown:
    """What pages have by now."""

    history: History | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    points: Mapping[int, tuple[Any, ...]] = field(default_factory=dict)
    champions: list[Any] = field(default_factory=list)
    swarm: SwarmView | None = None


class RunFeed:
    """A run as it goes on. Not thread-safe: use it from one thread, but for `signature`."""

    def __init__(
        self,
        folder: RunFolder,
        command: Callable[[History], str],
        swarm: Callable[[], SwarmView | None] = lambda: None,
    ) -> None:
        """Opens the ledger.

        Args:
          command: what begins a run again.
          swarm: what is known of the swarm that the run's folder takes part in; asked at each look.

        Raises:
          UserError: there is no ledger, or it is of another version.
        """
        self._folder = folder
        self._command = command
        self._swarm = swarm
        self._watched = [str(path) for path in (folder.ledger, f"{folder.ledger}-wal", folder.live)]
        self._ledger: Ledger | None = Ledger.open_to_read(folder.ledger)
        self._inode = _inode(folder)
        self._read: int | None = None  # of `writes_seen`, when the page was made
        self._shown = _Shown()
        self._epoch = os.urandom(4).hex()  # of this ledger in this process
        self._version = 0
        self._updates: OrderedDict[int, Event] = OrderedDict()
        self._state: Event = {}
        self._now: Event = {}
        self.look()

    def signature(self) -> tuple[Any, ...]:
        """Differs whenever there is something new, or will be once the disk has it; costs a few microseconds."""
        return tuple(map(_stat, self._watched))

    def page(self) -> str:
        """The page as it is now; before the baseline is measured it has no figures yet."""
        tag = self._folder.path.name
        state = f"{self._epoch}-{self._version}"
        return live_page(tag, self._shown.history, self._shown.parts, state, self._shown.swarm)

    def events_since(self, state: str) -> list[Event]:
        """What a page needs that was made at a state: what it missed, and how things are now."""
        epoch, _, number = state.partition("-")
        missed: list[Event] = [{"event": "reload", "data": {}}]
        if epoch == self._epoch and number.isdecimal():
            first = int(number) + 1
            if first == self._version + 1 or first in self._updates:
                missed = [self._updates[each] for each in range(first, self._version + 1)]
        return [*missed, *(event for event in (self._state, self._now) if event)]

    def look(self) -> list[Event]:
        """Reads what is new; returns what pages have to be told."""
        events: list[Event] = []
        driver = trouble = None
        try:
            driver = self._folder.holder()
            trouble = self._reopen_if_replaced(events)
            if trouble is None:
                events += self._update()
        except (UserError, sqlite3.Error) as error:
            trouble = clean_line(str(error))
        except Exception as error:  # ours, such as of a ledger that is damaged: the page says so, and asks again
            trouble = clean_line(f"{self._folder.ledger} cannot be read: {type(error).__name__}: {error}")
            if trouble != self._state.get("data", {}).get("words"):
                logging.getLogger(__name__).exception(trouble)
        state = {"event": "state", "data": self._describe_state(driver, trouble)}
        now = {"event": "now", "data": _describe_now(read_live(self._folder), is_at_work=driver is not None)}
        events += [state] if state != self._state else []
        events += [now] if now != self._now else []
        self._state, self._now = state, now
        return events

    def _reopen_if_replaced(self, events: list[Event]) -> str | None:
        """Opens the ledger again if another file has taken its place; returns what is wrong, None if nothing is."""
        inode = _inode(self._folder)
        if inode is None:
            return f"{self._folder.ledger} is gone; this page shows what was there"
        if inode == self._inode and self._ledger is not None:
            return None
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        try:
            self._ledger = Ledger.open_to_read(self._folder.ledger)
        except (UserError, sqlite3.Error, OSError) as error:
            return clean_line(str(error))
        self._inode, self._epoch, self._version = inode, os.urandom(4).hex(), 0
        self._updates.clear()
        self._shown, self._read = _Shown(), None
        events.append({"event": "reload", "data": {}})
        return None

    def _update(self) -> list[Event]:
        """What of the page has changed; the ledger is read only if it was written to, or the swarm is another."""
        assert self._ledger is not None
        swarm = self._swarm()
        with self._ledger.as_of_now():
            seen = self._ledger.writes_seen()
            if seen == self._read and swarm is self._shown.swarm:
                return []
            try:
                history = read_history(self._ledger, self._folder)
            except ReportError:  # no baseline yet
                self._read, self._shown.swarm = seen, swarm
                return []
            parts = run_parts(history, self._ledger.source, self._command(history), swarm=swarm)
        self._read = seen
        before = self._shown
        points = {point.row.id: point_data(point) for point in history.points}
        champions = champions_data(history)
        self._shown = _Shown(history, parts, points, champions, swarm)
        if before.history is None or (before.swarm is None) != (swarm is None):
            self._version += 1  # a page that lacks a section is loaded again
            return [{"event": "reload", "data": {}}]
        changed = {name: asdict(part) for name, part in parts.items() if before.parts.get(name) != part}
        new_points = [list(point) for number, point in points.items() if before.points.get(number) != point]
        if not changed and not new_points:
            return []
        self._version += 1
        data = {
            "parts": changed,
            "points": new_points,
            "champions": champions if champions != before.champions else None,
            "swarm": None if swarm is None or swarm is before.swarm else swarm_chart(swarm),
        }
        event = {"event": "update", "id": f"{self._epoch}-{self._version}", "data": data}
        self._updates[self._version] = event
        while len(self._updates) > KEPT_UPDATES:
            self._updates.popitem(last=False)
        return [event]

    def _describe_state(self, driver: str | None, trouble: str | None) -> dict[str, Any]:
        if trouble is not None:
            return {"words": trouble, "isTrouble": True}
        assert self._ledger is not None
        with suppress(sqlite3.Error):
            if driver is not None:
                return {"words": f"live: {driver} is at work", "isTrouble": False}
            ended = self._ledger.last_ending()
            if ended in (None, "killed"):
                words = "no driver is at work; the same command goes on from here"
                return {"words": words if ended is None else f"the driver was killed: {words}", "isTrouble": True}
            return {"words": f"ended: {clean_line(str(ended))}", "isTrouble": False}
        return {"words": "the ledger cannot be read at the moment", "isTrouble": True}


def _stat(path: Any) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _inode(folder: RunFolder) -> int | None:
    found = _stat(folder.ledger)
    return None if found is None else found[0]


def _describe_now(live: Live | None, *, is_at_work: bool) -> dict[str, Any]:
    """The running trials for the page; of a driver that is gone only its last lines."""
    log = [] if live is None else [f"{datetime.fromtimestamp(at):%H:%M:%S}  {line}" for at, line in live.log]
    if live is None or not is_at_work:
        return {"trials": [], "lines": ["nothing is being measured"], "unit": "", "log": log}
    lines = []
    for word, trouble in (("waiting", live.waiting), ("a service is down", live.down)):
        if trouble is not None:
            since, again = (datetime.fromtimestamp(at) for at in (trouble.since, trouble.again_at))
            lines.append(f"{word} since {since:%H:%M:%S}, asking again at {again:%H:%M:%S}: {trouble.what}")
    goes_on = live.waiting is None or len(live.trials) > 1
    in_steps = any(one.report.get("budget_steps") is not None for one in live.trials)
    return {
        "trials": [_describe_trial(one, goes_on=goes_on) for one in live.trials],
        "lines": lines if lines or live.trials else ["nothing is being measured"],
        "unit": "step" if in_steps else "seconds of the budget",
        "log": log,
    }


def _describe_trial(running: Running, *, goes_on: bool) -> dict[str, Any]:
    words = f"experiment {running.experiment}  {clean_line(running.hypothesis, WORDS)}  {running.run}".rstrip()
    return {
        "trial": running.trial,
        "name": f"{running.experiment} {running.run}".rstrip(),
        "lines": [words, *([describe_report(running.report)] if running.report and goes_on else [])],
        "share": share_of_budget(running.report) if goes_on else None,
        "curve": [list(point) for point in running.curve],
    }
