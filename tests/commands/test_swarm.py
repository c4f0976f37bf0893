"""Tests of `autoresearch swarm`: two people who share what their runs found."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nights import write_night
from repositories import git
from swarm_place import Place, make_place

from autoresearch_jax import cli
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.findings.folder import FindingFolder
from autoresearch_jax.swarm.outbox import Outbox
from autoresearch_jax.types import Status

PROGRAM = Path(__file__).parents[2] / "program.md"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place whose folder is a repository of somebody's."""
    monkeypatch.chdir(tmp_path)
    place = make_place(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "remote", "add", "shared", str(place.remote))
    return place


def call(capsys, *words: str) -> tuple[int, str, str]:
    status = cli.main(["swarm", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def join(capsys, place: Place, name: str, key: str = "", **given: str) -> tuple[int, str, str]:
    words = {"remote": "shared", "members": str(place.members), "key": str(place.key(key or name)), **given}
    flags = [f"--{flag}={value}" for flag, value in words.items()]
    return call(capsys, "join", f"--name={name}", *([] if "run_dir" in given else [f"--run_dir={name}"]), *flags)


@contextmanager
def reading_only(folder: Path) -> Iterator[str]:
    """URL of a git server that refuses pushes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["git", "daemon", "--verbose", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    words += [f"--base-path={folder}", str(folder)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as daemon:
        assert daemon.stderr is not None
        while "Ready to rumble" not in daemon.stderr.readline():
            assert daemon.poll() is None
        yield f"git://127.0.0.1:{port}"
        os.killpg(daemon.pid, signal.SIGKILL)


def test_what_a_run_found_reaches_another_peer(place: Place, capsys):
    status, out, err = join(capsys, place, "alice")
    assert (status, err) == (0, "")
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        *("folder", "key", "members", "remote", "push", "joined")
    ]
    assert json.loads((place.path / "alice/swarm/swarm.json").read_text())["remote"] == str(place.remote)
    write_night(place.path / "alice" / "night", 30, seed=1)
    before = git(place.path, "status", "--porcelain", "--branch"), (place.path / ".git/config").read_text()
    status, out, err = call(capsys, "sync", "--run_dir=alice", "--tag=night")
    assert (status, err) == (0, "")
    assert "refs/autoresearch/findings/alice" in out
    assert join(capsys, place, "bob")[0] == 0
    status, out, _ = call(capsys, "sync", "--run_dir=bob")
    assert status == 0
    read = FindingFolder(place.path / "bob/swarm/findings", print).findings()
    assert len(read) > 3
    assert f"\nread:                {len(read)}\n" in out
    assert (git(place.path, "status", "--porcelain", "--branch"), (place.path / ".git/config").read_text()) == before
    assert not git(place.path, "for-each-ref")

    rows = json.loads(call(capsys, "papers", "--run_dir=bob", "--format=json")[1])
    assert {row["id"] for row in rows} == {one.id for one in read}
    page = call(capsys, "papers", read[0].id, "--run_dir=bob")[1]
    assert 'source: "peer alice, run night' in page
    assert f"`autoresearch swarm replay {read[0].id} alice --tag=RUN`" in page
    mine, other = json.loads(call(capsys, "peers", "--run_dir=bob", "--format=json")[1])[:2]
    assert float(mine["champion"]) > 0
    assert (mine["peer"], other["peer"]) == ("alice", "bob (this)")
    (mine, other, _) = json.loads(call(capsys, "peers", "--run_dir=alice", "--format=json")[1])
    assert (mine["peer"], mine["findings"], other["state"]) == ("alice (this)", len(read), "silent")
    status, _, err = join(capsys, place, "carol", run_dir="bob")
    assert (status, "bob/swarm is bob's, and one folder is one peer's" in err) == (2, True)
    figures = json.loads(call(capsys, "status", "--run_dir=bob", "--format=json")[1])
    assert (figures["findings read"], figures["refused"]) == (len(read), [])
    assert call(capsys, "block", "alice", "--run_dir=bob")[:2] == (
        0,
        f"alice: blocked, {len(read)} findings taken out of bob/swarm/findings\n",
    )
    call(capsys, "sync", "--run_dir=bob")
    assert not list((place.path / "bob/swarm/findings").glob("*.md"))
    assert "nothing was read yet" in call(capsys, "papers", "--run_dir=bob")[1]
    call(capsys, "unblock", "alice", "--run_dir=bob")
    call(capsys, "sync", "--run_dir=bob")
    library = FindingFolder(place.path / "bob/swarm/findings", print)
    assert {one.id for one in library.findings()} == {one.id for one in read}

    replayed = replace(read[0].evidence[0], decision="differs", claim="alice", replay="x")
    waits = replace(read[0], status="unclear", evidence=(replayed,))
    Outbox(place.path / "bob/swarm/outbox", "bob", {}).put_finding(waits, str(library.base_text(waits.base)))
    call(capsys, "sync", "--run_dir=bob")
    assert f"{waits.id}  differs  of bob: " in call(capsys, "sync", "--run_dir=alice")[1]
    rows = json.loads(call(capsys, "papers", "--run_dir=alice", "--format=json")[1])
    answered = {row["id"]: row["trust"] for row in rows if row["peer"] == "alice (this)" and row["trust"] != "claimed"}
    assert (len(rows), answered) == (len(read), {waits.id: "1 differs"}), "what others say of her own"
    assert "Replayed by 1 other peer: 1 differs." in call(capsys, "papers", waits.id, "--run_dir=alice")[1]
    status, out, err = call(capsys, "block", "zed", "--run_dir=bob")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "zed: no member, and nothing was read of it" in err


def test_an_agent_is_told_of_papers_and_those_that_it_used_are_counted(place: Place, capsys):
    """The ledger of the night gets one experiment more, as an agent's proposal makes it."""

    def printed(*words: str) -> str:
        assert cli.main([*words, "--run_dir=bob", "--tag=night"]) == 0
        return capsys.readouterr().out

    for name, count in (("alice", 30), ("bob", 6)):
        join(capsys, place, name)
        write_night(place.path / name / "night", count, seed=count)
    call(capsys, "sync", "--run_dir=alice", "--tag=night")
    assert "## What peers found" not in printed("brief", f"--program={PROGRAM}")
    call(capsys, "sync", "--run_dir=bob")
    page = printed("brief", f"--program={PROGRAM}")
    assert page == printed("brief", f"--program={PROGRAM}")
    lines = page.partition("## What peers found")[2].partition("\n## ")[0].splitlines()
    papers = {line.split()[1].rstrip(":"): line for line in lines if line.startswith("- ")}
    rows = {row["id"]: row for row in json.loads(call(capsys, "papers", "--run_dir=bob", "--format=json")[1])}
    assert len(papers) == 5
    assert papers.keys() <= rows.keys()
    assert {(row["used"], row["tried"]) for row in rows.values()} == {(0, 0)}
    first, second, *_ = papers
    assert f'"{rows[first]["title"]}"' in papers[first]
    assert 'kept by alice on "cpu", +' in papers[first]
    with closing(Ledger.open(place.path / "bob/night/ledger.db")) as ledger:
        said = {"hypothesis": rows[second]["title"], "used": (first, second), "why": "It is smoother."}
        number = ledger.begin_experiment(Intent(Kind.PROPOSAL, "x = 1\n", parent=0, finding=first, **said)).id
        ledger.conclude(number, Status.REJECTED, None, Action.DISCARD, "no", None, 1.0)
    (place.path / "bob/old").mkdir()
    with closing(sqlite3.connect(place.path / "bob/old/ledger.db")) as older:
        older.execute("CREATE TABLE experiments (id)")
    rows = {row["id"]: row for row in json.loads(call(capsys, "papers", "--run_dir=bob", "--format=json")[1])}
    counts = {name: (row["tried"], row["used"]) for name, row in rows.items() if row["used"]}
    assert counts == {first: (1, 1), second: (0, 1)}
    page = printed("brief", f"--program={PROGRAM}")
    lines = page.partition("## What peers found")[2].partition("\n## ")[0].splitlines()
    names = [line.split()[1].rstrip(":") for line in lines if line.startswith("- ")]
    assert names[:3] == list(papers)[2:], (
        "what was tried goes behind what was not, or was this run's own; all else stays"
    )
    why = printed("status", f"--why={number}")
    assert f"{first}, {second}\n" in why
    assert "It is smoother. (its proposer's opinion)" in why
    (row,) = [row for row in json.loads(printed("results", "--format=json"))["experiments"] if row["used"]]
    assert (row["experiment"], row["used"], row["why"]) == (number, [first, second], "It is smoother.")


def test_joining_says_what_is_missing_in_a_line_each(place: Place, capsys):
    def failed(name: str, *, status: int = 1, **given: str) -> str:
        got, out, err = join(capsys, place, name, **given)
        assert got == status
        assert not (place.path / name / "swarm/swarm.json").exists()
        return "\n".join(line for line in out.splitlines() if "FAILED" in line) if status == 1 else err

    said = failed("mallory")
    assert said.startswith("members:             FAILED: ")
    assert said.endswith(
        f"this line: mallory {' '.join(place.key('mallory').with_suffix('.key.pub').read_text().split()[:2])}"
    )
    assert "another key of bob: name that one with --key, or" in failed("bob", key="mallory")
    cut = place.path / "cut"
    cut.write_text(place.members.read_text().rpartition(" ")[0][:-3])
    assert f"{cut}:4: the key of carol cannot be read" in failed("bob", members=str(cut))
    assert failed("bob", members="nowhere").startswith("members:             FAILED: ")
    assert failed("bob", remote="nowhere/x.git").startswith(
        "remote:              FAILED: nowhere/x.git does not answer"
    )
    assert "//me:[secret]@127.0.0.1" in failed("bob", remote="http://me:password@127.0.0.1:1/x.git")
    assert "no such file" in failed("bob", key="nobody", status=2)
    assert "B.b: no name of a peer: lower-case words" in failed("B.b", key="bob", status=2)
    shutil.copy(place.key("bob").with_suffix(".key.pub"), place.key("public"))
    assert failed("bob", key="public").startswith(f"key:                 FAILED: {place.key('public')} does not sign: ")
    with reading_only(place.path) as url:
        assert failed("bob", remote=f"{url}/remote.git").startswith("push:                FAILED: git push failed")
    assert "--listen or --connect" in failed("bob", remote="", status=2)
    assert call(capsys, "join")[0] == 2
    assert call(capsys, "dance")[0] == 2
    status, _, err = call(capsys, "status", "--run_dir=bob")
    assert (status, err.count("\n")) == (1, 1)
    assert "autoresearch swarm join --remote=URL --name=NAME" in err
