"""`autoresearch sample`: text from a snapshot, or what became of it."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from finished_night import Night

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.snapshots.store import SnapshotStore


def test_sample_of_an_experiment_says_what_became_of_it(
    night: Night, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = night.trials(night.other)[-1]
    by_number = ["sample", *night.where, f"--experiment={night.other}", "--tokens=5", "--prompt=the "]
    by_path = ["sample", f"--snapshot={night.snapshot(trial)}", "--tokens=5", "--prompt=the "]
    assert main(by_number) == main(by_path) == 0
    text = capsys.readouterr().out
    assert text.startswith("the ")
    assert text[: len(text) // 2] == text[len(text) // 2 :]

    file = night.damage(trial)
    night.snapshot(trial).rename(tmp_path / "kept")
    for event, says in (
        (None, f"{night.snapshot(trial)}: is missing: restore it from a copy, or {night.remedy(night.other)}"),
        ("damage", f"{file}: has been changed: restore it from a copy, or {night.remedy(night.other)}"),
        ("expire", f"{night.snapshot(trial)}: has expired: the run let go of it: {night.remedy(night.other)}"),
    ):
        if event == "damage":
            shutil.copytree(tmp_path / "kept", night.snapshot(trial))
        if event == "expire":  # and it is not deleted yet
            with night.ledger() as ledger:
                ledger.expire_snapshots([trial.id])
        for command in (by_number, by_path) if event else (by_path,):  # by number there is the original's
            assert main(command) == 1
            assert capsys.readouterr().err == f"autoresearch sample: {says}\n"

    monkeypatch.chdir(night.snapshots)
    assert main(["sample", f"--snapshot={night.snapshot(trial).name}"]) == 1
    assert night.remedy(night.other) in capsys.readouterr().err


@pytest.mark.slow
def test_sample_of_one_that_was_moved(night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = night.trials(night.other)[-1]
    far = SnapshotStore(str(tmp_path / "far"))
    far.check()
    address = far.put(night.snapshot(trial))
    with night.ledger() as ledger:
        ledger.move_snapshot(trial.id, address)
    shutil.rmtree(night.snapshot(trial))
    by_number = ["sample", *night.where, f"--experiment={night.other}", "--tokens=5"]
    by_path = ["sample", f"--snapshot={night.snapshot(trial)}", "--tokens=5"]
    assert main(by_number) == main(by_path) == 0
    far.remove(night.snapshot(trial).name)
    capsys.readouterr()
    for command in (by_number, by_path):
        assert main(command) == 1
        remedy = f"restore it from a copy, or {night.remedy(night.other)}"
        assert capsys.readouterr().err == f"autoresearch sample: {address}: is missing: {remedy}\n"


def test_a_snapshot_beside_a_ledger_that_cannot_be_read_is_sampled_all_the_same(night: Night) -> None:
    trial = night.trials(night.other)[-1]
    night.folder.ledger.write_bytes(b"no database" * 100)
    assert main(["sample", f"--snapshot={night.snapshot(trial)}", "--tokens=5"]) == 0


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--experiment=7"], 1, "there is no experiment 7; `autoresearch results` lists them"),
        (["--experiment=2"], 1, "experiment 2 has no snapshot (not over yet)"),
        (["--experiment=0", "--snapshot=x"], 2, "--snapshot and --experiment: name the snapshot once"),
        (["--snapshot="], 2, "--snapshot is empty: name the folder of a snapshot"),
    ],
)
def test_what_cannot_be_sampled_is_told_in_one_line(
    words: list[str], status: int, message: str, night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    with night.ledger() as ledger:
        ledger.begin_experiment(Intent(Kind.PROPOSAL, "", parent=night.champion))
    assert main(["sample", *night.where, *words]) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_where_there_is_no_snapshot_yet_a_driver_at_work_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.create()
    command = ["sample", f"--run_dir={tmp_path}", "--tag=new"]

    def says() -> str:
        assert main(command) == 1
        return capsys.readouterr().err

    with folder.lock():
        at_work = f"new: no snapshot yet, but {folder.holder()} is at work on it: wait for the first, or name another"
        assert at_work in says(), "where there is no ledger yet, either"
        Ledger.open(folder.ledger).close()
        assert at_work in says()
    assert "no snapshot yet; run `autoresearch trial`, or name one with --snapshot" in says()
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings({"metric": "val_bpb", "direction": "minimize"})
    assert "no snapshot yet; `autoresearch run` with its --tag goes on, or name one" in says()
