"""`autoresearch adopt`: a peer's champion, read from a real remote, on a fake task."""

import json
from pathlib import Path

from fakes import PROGRAM, SOURCE, FakeTask
from repositories import git, make_repository
from swarm_place import make_place
from task_stand_in import stand_in

from autoresearch_jax import cli

DEEP = SOURCE.replace("DEPTH = 4", "DEPTH = 6")


def test_a_champion_is_one_experiment_and_the_run_goes_on_from_it(tmp_path: Path, monkeypatch, capsys):
    repository = tmp_path / "repository"
    make_repository(repository, SOURCE, PROGRAM)
    monkeypatch.chdir(repository)
    stand_in(monkeypatch, lambda options: FakeTask(noise=0.0001))
    place = make_place(tmp_path)
    alice = place.peer("alice")
    bob = place.peer("bob")

    def adopt(*words: str) -> tuple[int, dict, str]:
        status = cli.main(["adopt", *words, f"--run_dir={place.path / 'bob/runs'}", "--tag=night", "--format=json"])
        captured = capsys.readouterr()
        return status, json.loads(captured.out) if captured.out.startswith("{") else {}, captured.err

    for words, remedy in (
        ((), "the name of one peer"),
        (("Al ice",), "no name"),
        (("alice",), "--tag=night: no such run yet"),
    ):
        status, _, err = adopt(*words)
        assert (status, remedy in err, err.count("\n")) == (2, True, 1)
    begun = ["run", f"--run_dir={place.path / 'bob/runs'}", "--tag=night", "--seed=0", "--proposer=constants"]
    assert cli.main([*begun, "--experiments=0"]) == 0
    capsys.readouterr()
    status, _, err = adopt("bob")
    assert (status, "that is this peer itself" in err, err.count("\n")) == (2, True, 1)
    status, _, err = adopt("alice")
    assert (status, "none was read" in err, "swarm sync" in err) == (1, True, True)

    alice.offer_champion({"metric": "loss", "score": 1.23, "device_class": "cpu \x1b[31m", "experiment": 4}, DEEP)
    assert alice.round().answered
    assert bob.round().answered
    status, found, _ = adopt("alice")
    assert (status, found["outcome"], found["category"]) == (0, "keep", "adoption")
    assert found["adopted_from"] == "alice"
    assert found["hypothesis"] == "The champion of peer alice, by its words loss 1.23 on cpu"
    assert git(repository, "show", "autoresearch/night:train_lib.py") == DEEP.strip()
    assert git(repository, "log", "-1", "--format=%(trailers:key=Adopted-From)", "autoresearch/night") == (
        "Adopted-From: alice"
    )
    status, found, _ = adopt("alice")
    assert (status, found["outcome"]) == (3, "duplicate")
