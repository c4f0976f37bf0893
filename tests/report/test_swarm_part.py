"""The part of a run's page about its swarm: a real store with hostile words of a peer, the report, and a browser."""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Show, View, expect
from ideas import HOSTILE
from swarm_place import BASE, Place, make_place
from watched import serving

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.findings.format import Evidence, Finding, base_digest
from autoresearch_jax.report.feed import RunFeed
from autoresearch_jax.report.swarm import LOOK_SECONDS, SwarmReader
from autoresearch_jax.types import Status

OF_ALICE, OF_BOB = "peer alice, run x", "peer bob, run x"
FOREIGN = (
    "[...document.querySelectorAll('main img, main a, main i, main script, main textarea')].map(one => one.outerHTML)"
)


def finding(id: str, title: str, decision: str, source: str = "run x", device_class: str = "cpu") -> Finding:
    change = f"<<<<<<< SEARCH\n    return x * x\n=======\n    return x  # {id}\n>>>>>>> REPLACE\n"
    seen = Evidence(device_class, "abc", "20 s", 3, decision, "2026-11-29", 0.01, 0.002, 0.97, replay="x:1")
    status = "kept" if decision == "keep" else "unclear"
    return Finding(id, title, "loss", status, source, base_digest(BASE), "Why.", change, (seen,))


@dataclass
class Community:
    """Three peers; the run is in bob's folder."""

    place: Place
    run: RunFolder

    def send(self, name: str, *findings: Finding) -> None:
        """Has a peer push findings, a minute later, and read those of the others."""
        self.place.now += 60
        peer = self.place.peer(name)
        peer.offer((one, BASE) for one in findings)
        assert peer.round().answered


@pytest.fixture
def community(tmp_path: Path, night: RunFolder) -> Community:
    place = make_place(tmp_path)
    run = RunFolder(place.folder("bob").path.parent / "night")
    shutil.copytree(night.path, run.path)
    with closing(Ledger.open(run.ledger)) as ledger:
        words = {"hypothesis": "as alice has it", "category": "loss", "proposer": "peers", "adopted_from": "alice"}
        row = ledger.begin_experiment(Intent(Kind.PROPOSAL, ledger.source(0), finding="deep", parent=0, **words))
        ledger.conclude(row.id, Status.CRASH, None, None, "it crashed", None, 3.0)
    made = Community(place, run)
    deep = finding("deep", HOSTILE[1], "keep", device_class=HOSTILE[6])
    made.send("alice", deep, finding("wide", "Wide", "keep"), finding("mine", "Mine", "keep", OF_BOB))
    made.send("carol", finding("deep", HOSTILE[2], "keep", OF_ALICE, HOSTILE[0]), finding("own", HOSTILE[-1], "keep"))
    made.send("bob", finding("deep", HOSTILE[1], "crash", OF_ALICE), finding("mine", "Mine", "keep"))
    return made


def files_of(path: Path) -> set[tuple[str, int]]:
    return {(str(each), each.stat().st_mtime_ns) for each in path.rglob("*")}


def test_the_swarm_is_a_part_of_the_report_and_of_the_live_page(community: Community, show: Show, capsys):
    place, run = community.place, community.run
    folder, before = place.folder("bob"), files_of(place.folder("bob").path)
    assert main(["report", f"--run_dir={run.path.parent}", "--tag=night"]) == 0
    written = (run.path / "report.html").read_text()
    said = "As bob: 5 findings of 2 peers read, 2 sent; 1 tried in this run, 0 of them kept; 1 of its own adopted"
    assert said in written
    assert main(["report", f"--run_dir={run.path.parent}", "--tag=night", "--format=md"]) == 0
    markdown = (run.path / "report.md").read_text()
    assert said in markdown
    table = markdown.partition("| finding | found by")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.replace(r"\|", "").count("|") for line in table] == [5] * 4
    assert (table[0].count(" on "), re.findall(r"(?<!\\)<(?:img|script)", markdown)) == (3, [])
    assert main(["status", f"--run_dir={run.path.parent}", "--tag=night"]) == 0
    assert "adopted:             1\nadopted_kept:        0\n" in capsys.readouterr().out

    with serving(run) as server:
        shown = show(server.url, View(390, "dark"))
        part, chart = shown.page.locator("[data-part='swarm']"), shown.page.locator("#adoptions")
        expect(part).to_contain_text(said)
        rows = part.locator("tbody tr")
        expect(rows).to_have_count(4)
        words = rows.first.inner_text()
        assert all(
            text in words for text in ('"><img src=x onerror=alert(1)>', "alice on two lines and red", "bob on cpu")
        )
        assert "carol on <script>alert(1)</script>, 15 Jan 08:02" in words
        assert ", failed" in words
        assert not set(part.inner_text()) & {"\u202e", "\u2067", "\x1b", "\x07"}
        expect(chart.locator(".scatterlayer .js-line")).to_have_count(3)
        expect(chart.locator(".legendtext").first).to_have_text("1")
        shown.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        expect(shown.page.locator("[data-list='rows'] tr").last).to_contain_text("peers, from alice")
        shown.page.evaluate("Plotly.Fx.hover('adoptions', [{ curveNumber: 0, pointNumber: 1 }])")
        expect(chart.locator(".hoverlayer")).to_contain_text("adopted by carol on <script>alert(1)</script>")
        assert shown.page.evaluate(FOREIGN) == []
        assert shown.violations() == ""
        assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
        assert (shown.errors, shown.off_loopback) == ([], [])
    assert files_of(folder.path) == before, "who looks writes nothing"


def test_what_is_new_is_read_once_and_told(community: Community):
    readings: list[Callable[[], None]] = []
    now = 0.0
    reader = SwarmReader(community.place.folder("bob"), os.environ, readings.append, lambda: now)
    feed = RunFeed(community.run, lambda history: "", reader.latest)
    assert "is being read" in feed.page()
    readings.pop()()
    (update,) = (event["data"] for event in feed.look() if event["event"] == "update")
    assert update["parts"].keys() == {"swarm"}
    assert [line["points"][-1][1] for line in update["swarm"]["lines"]] == [1, 1]
    assert (feed.look(), readings) == ([], [])
    now += LOOK_SECONDS
    assert (feed.look(), readings) == ([], []), "nothing moved"
    community.send("carol", finding("wide", "Wide", "keep", OF_ALICE))
    community.send("bob")
    assert (feed.look(), readings) == ([], []), "not yet due"
    now += LOOK_SECONDS
    feed.look()
    readings.pop()()
    (update,) = (event["data"] for event in feed.look() if event["event"] == "update")
    assert update["swarm"]["all"][-1][1] == 3
    (community.place.folder("bob").settings).write_text("{")
    now += LOOK_SECONDS
    feed.look()
    readings.pop()()
    (update,) = (event["data"] for event in feed.look() if event["event"] == "update")
    assert "swarm.json: cannot be read" in update["parts"]["swarm"]["html"]
    assert update["swarm"] == {}
    community.place.folder("bob").settings.unlink()
    now += LOOK_SECONDS
    feed.look()
    readings.pop()()
    assert [event["event"] for event in feed.look()] == ["reload"]
    assert 'id="title-swarm"' not in feed.page()
