"""Tests of `autoresearch swarm replay`: programs of peers run again, by hand and by a peer that is idle."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from finished_night import Night
from repositories import git
from swarm_place import Place, make_place

from autoresearch_jax import cli
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.init import COMMAND_FILES
from autoresearch_jax.commands.swarm_replay import IdleReplays
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.findings.folder import FindingFolder, id_of_content
from autoresearch_jax.findings.format import Evidence, Finding, base_digest, device_class, diff_change
from autoresearch_jax.swarm.contents import read_swarm
from autoresearch_jax.swarm.replays import idle_claims

# Reads and writes where no program may; should it be let, its score is another.
HOSTILE = """
try:
    with open("{folder}/secret") as secret, open("{folder}/written", "w") as file:
        file.write(secret.read())
    PASSES = 0
except OSError:
    pass
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q", "-b", "main")
    return make_place(tmp_path)


def measured(run: RunFolder) -> Evidence:
    """What a run says of its baseline, as if it were a gain."""
    with closing(Ledger.open_to_read(run.ledger)) as ledger:
        settings, (trial, *_) = ledger.settings(), ledger.runs(ledger.experiment(0))
    steps, seconds = trial.metrics.get("num_steps"), settings.get("budget_seconds")
    return Evidence(
        *(device_class(settings), str(settings["fingerprint"])),
        budget=f"{settings['budget_steps']} steps" if seconds is None else f"{seconds:g} s",
        runs=3,
        decision="keep",
        date="2026-11-29",
        effect=0.01,
        error=0.002,
        device=str(settings["device_kind"]),
        replay="x:1",
        sigma=0.002,
        seed=trial.seed,
        steps=None if steps is None else int(steps),
        value=trial.value,
    )


def adding(id: str, base: str, more: str, evidence: Evidence) -> Finding:
    """A finding that adds some lines to a text."""
    change = diff_change(base, f"{base}\nassert {id!r}\n{more}", "asset.py")
    return Finding(id, f"On {id}", "loss", "kept", "run x", base_digest(base), "Why.", change, (evidence,))


@pytest.fixture
def replayed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict, str]]:
    """Calls `swarm replay`: status, what it printed as JSON, and its complaints."""

    def call(*words: str) -> tuple[int, dict, str]:
        capsys.readouterr()
        status = cli.main(["swarm", "replay", *words, "--format=json"])
        out, err = capsys.readouterr()
        return status, json.loads(out) if out else {}, err

    return call


def test_a_liar_is_caught_and_a_strangers_program_stays_in_the_sandbox(
    place: Place, sandbox_cache: Path, replayed, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["init", "--task=command"]) == 0
    git(place.path, "add", *COMMAND_FILES)
    git(place.path, "commit", "-q", "-m", "start")
    where = ("--run_dir=bob/runs", "--tag=night")
    flags = ("--task=command", "--seed=0", "--clock=wall", "--budget_seconds=600", "--baseline_runs=2")
    flags += ("--proposer=constants", f"--cache_dir={sandbox_cache}", "--experiments=0")
    assert cli.main(["run", *where, *flags]) == 0
    run, base = RunFolder(place.path / "bob/runs/night"), (place.path / "tour.py").read_text()
    truth = measured(run)
    assert truth.value is not None
    (place.path / "secret").write_text("a key")
    alice, bob, carol = place.peer("alice"), place.peer("bob"), place.peer("carol")

    ids: dict[str, str] = {}

    def claim(id: str, more: str = "", **given) -> tuple[Finding, str]:
        finding = adding(id, base, more, replace(truth, **given))
        ids[id] = id_of_content(finding)
        return finding, base

    alice.offer(
        [
            claim("honest", value=truth.value + 0.005),
            claim("liar", value=truth.value - 1.0),
            claim("hostile", HOSTILE.format(folder=place.path)),
            claim("broken", "raise ValueError\n"),
            claim("elsewhere", device_class="NVIDIA H100", value=truth.value - 1.0),
            claim("other-task", fingerprint="another"),
            claim("no-score", value=None),
        ]
    )
    carol.offer(
        [claim("honest", decision="keep", device_class="NVIDIA L4"), claim("liar", decision="discard", effect=-0.01)]
    )
    for peer in (alice, carol, bob):
        assert peer.round().answered

    status, found, _ = replayed(ids["honest"], "alice", *where)
    assert (status, found["result"], found["claimed"]) == (0, "within noise", truth.value + 0.005)
    status, found, _ = replayed(ids["liar"], "alice", *where)
    assert (status, found["result"], found["why"][:6]) == (1, "differs", "1 off,")
    assert replayed(ids["hostile"], *where)[1]["result"] == "within noise"
    assert not (place.path / "written").exists()
    assert replayed(ids["broken"], *where)[1]["result"] == "differs"
    waiting = len(bob.outbox.waiting())
    _, found, said = replayed(ids["elsewhere"], *where)
    assert (found["result"], found["sent"], said.count("\n")) == ("says nothing", "no", 1)
    assert len(bob.outbox.waiting()) == waiting == 4
    for name, why in (("other-task", "another task (another, "), ("no-score", "no finding with a score")):
        status, _, err = replayed(ids[name], *where)
        assert (status, err.count("\n"), why in err) == (1, 1, True), err
    status, found, _ = replayed(*where)
    drawn = found["finding"], found["peer"], found["result"]
    assert drawn == (ids["liar"], "carol", "within noise"), "nobody replayed it, and the others are of another class"
    assert not list(bob.folder.path.glob(".replay-*"))

    bob.round(), alice.round(), carol.round()
    rows = json.loads(call(capsys, "papers", "--run_dir=carol/runs"))
    trust = {row["id"]: row["trust"] for row in rows if row["peer"] == "alice"}
    assert trust[ids["honest"]] == "1 within noise, 1 adopted"
    assert trust[ids["liar"]] == "1 differs, 1 refuted"
    assert trust[ids["elsewhere"]] == "claimed"
    page = call(capsys, "papers", ids["honest"], "--run_dir=carol/runs", format="text")
    assert "Replayed by 1 other peer: 1 within noise. Adopted by 1 on 1 device class, refuted by 0." in page
    peers = {row["peer"]: row for row in json.loads(call(capsys, "peers", "--run_dir=carol/runs"))}
    counts = peers["alice"]["findings"], peers["alice"]["confirmed by others"], peers["alice"]["refuted by others"]
    assert counts == (7, 2, 2)
    assert peers["bob"]["findings"] == 0, "a replay is no finding"
    merged = {one.id: one for one in FindingFolder(carol.folder.findings, print).findings()}
    broken = merged[ids["broken"]]
    assert (broken.status, len(broken.evidence)) == ("kept", 2), "a replay is no decision"

    # ---- when idle
    lowered = threading.Event()
    module = "autoresearch_jax.commands.swarm_replay"
    monkeypatch.setattr(f"{module}.lower_priority_of_this_thread", lowered.set)  # else other tests would stop this one
    monkeypatch.setattr(f"{module}.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("autoresearch_jax.swarm.replays.ONE_IN", 1)
    last, _ = claim("last")
    alice.offer([(replace(last, evidence=(replace(truth, seed=5), *last.evidence)), base)])
    alice.round(), bob.round()
    told: list[str] = []
    idle = IdleReplays(bob.folder, FolderOptions(tag="night", run_dir="bob/runs"), told.append)
    with run.lock():
        assert idle._next() is None, "a run is at work"
    claimed = [one.finding.id for one in idle_claims(read_swarm(bob.folder, os.environ), idle._setting)]
    assert claimed.count(ids["last"]) == 1, "its latest, however many a page has"
    done, stopped = threading.Event(), threading.Event()
    thread = threading.Thread(target=idle.work, args=(stopped, done.set), daemon=True)
    thread.start()
    assert done.wait(600)
    assert lowered.is_set()
    assert told[0].startswith(f"swarm: replayed {ids['last']} of alice: within noise")
    sent = [entry.message for entry in bob.outbox.waiting()]
    assert sent == [f"{ids['last']}: On last"]
    alice.offer([claim("slow", "import time\ntime.sleep(600)\n")])
    alice.round(), bob.round()
    while not any("sleep" in path.read_text() for path in bob.folder.path.glob(".replay-*/programs/*/work/tour.py")):
        assert thread.is_alive()
        stopped.wait(0.05)
    stopped.set()
    thread.join(600)
    assert not thread.is_alive()
    assert (len(told), bob.outbox.waiting()) == (1, []), "the last round has sent what was there"
    assert replayed(ids["last"], *where)[0] == 0
    assert not list(bob.folder.path.glob(".replay-*")), "what was left by the kill, too"


def call(capsys, *words: str, format: str = "json") -> str:
    capsys.readouterr()
    assert cli.main(["swarm", *words, f"--format={format}"]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_language_model_is_replayed_bit_by_bit(place: Place, night: Night, tiny_source: str, replayed) -> None:
    alice, bob = place.peer("alice"), place.peer("bob")
    truth = measured(night.folder)
    timed = replace(truth, budget="2 s", replay="x:2")  # with another budget the steps are what counts
    alice.offer([(adding("same", tiny_source, "", timed), tiny_source)])
    alice.round()
    bob.round()
    target = bob.folder.path.parent / "night"
    target.symlink_to(night.folder.path)
    status, found, err = replayed("--run_dir=bob/runs", "--tag=night")
    assert (status, found["result"], found["steps"], found["value"]) == (0, "equal bits", 20, truth.value), err
    assert night.folder.holder() is None
