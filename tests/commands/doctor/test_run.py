"""`autoresearch doctor`, section run."""

import shutil
import sqlite3
import sys
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from doctor_calls import Doctor, in_own_mounts, lines
from fakes import PROGRAM, SOURCE

from autoresearch_jax.cli import main
from autoresearch_jax.commands import task_flags
from autoresearch_jax.commands.decision_flags import make_rule
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import LineageSettings
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import run_settings
from autoresearch_jax.tasks.lm import device
from autoresearch_jax.tasks.lm.accounting import ATTENDED, try_accounting
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device, device_terms
from autoresearch_jax.tasks.lm.task import LmTerms
from autoresearch_jax.types import Budget


def test_a_page_or_a_proposer_that_would_end_a_run(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("run", "--proposer=command")
    assert (status, found["faults"]) == (1, "proposer")
    assert "--agent_command" in found["proposer"]
    (repo / "program.md").write_text(PROGRAM.replace("## Stop when", "## Stop when\n\n- 3 blue moons"))
    status, found = doctor("run")
    assert status == 1
    assert found["faults"].startswith("program")
    assert found["program"].startswith("program.md:")


@pytest.fixture
def night(repo: Path, tiny_dataset: Dataset) -> RunFolder:
    """A run in that repository that began with the flags of `doctor`, and has no driver."""
    folder = RunFolder(repo / "runs" / "night")
    folder.create()
    budget = Budget(seconds=task_flags.DEFAULT_BUDGET_SECONDS)
    clock = task_flags.find_clock("auto", "cpu", print)
    machine = device_terms(Device("cpu", "cpu", 1, None), {"data": 1, "model": 1}, budget, clock)
    terms = LmTerms(tiny_dataset, budget, None, machine)
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings(
            run_settings(
                "train_lib.py", 0, terms, make_rule(LineageSettings(), terms.metric), Pruning(), CertificationSettings()
            )
        )
        folder.write_settings(ledger.settings())
        ledger.begin_experiment(Intent(Kind.BASELINE, SOURCE))
    return folder


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder; of each what changes if it is written to, or another one takes its place."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def test_a_run_that_goes_on(doctor: Doctor, night: RunFolder) -> None:
    before = states(night.path)
    status, found = doctor("run", "--tag=night")
    assert (status, found["faults"]) == (0, "none")
    assert found["ledger"] == "runs/night/ledger.db, the run goes on"
    assert found["settings"] == "those that the run was started with"
    assert states(night.path) == before, "not even SQLite's files are left beside it"
    assert doctor("run", "--tag=day")[1]["ledger"] == "none yet, the run begins"
    assert "ledger" not in doctor("run")[1]


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--budget_steps=20", "budget_seconds 300.0 then, None now; budget_steps None then, 20 now"),
        ("--seed=7", "seed 0 then, 7 now"),
        ("--judge_tokens=900", "fingerprint "),
        ("--editable=other.py", "editable train_lib.py then, other.py now"),
        ("--decision=greedy", "decision lineage then, greedy now"),
        ("--keep_probability=0.9", f"keep_probability {LineageSettings().bounds.keep_probability} then, 0.9 now"),
        ("--certify_every=3", f"certify_every {CertificationSettings().every} then, 3 now"),
    ],
)
def test_flags_that_are_not_the_run_s_own(flag: str, says: str, doctor: Doctor, night: RunFolder) -> None:
    shutil.copy("train_lib.py", "other.py")
    status, found = doctor("run", "--tag=night", flag)
    assert (status, found["faults"]) == (1, "settings")
    assert f"runs/night was started with other settings ({says}" in found["settings"]
    assert found["settings"].endswith("); use the same ones, or another --tag")


def test_a_run_is_bound_to_its_device_and_clock(
    doctor: Doctor, night: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finds(says: str, *words: str) -> None:
        status, found = doctor("run", "--tag=night", *words)
        assert (status, found["faults"]) == (1, "settings")
        assert f"({says})" in found["settings"]

    finds("num_devices 1 then, 2 now; mesh data=1,model=1 then, data=2,model=1 now", "--mesh=data=2")
    if task_flags.find_clock("auto", "cpu", print) == ATTENDED:
        finds("clock attended then, wall now", "--clock=wall")
        with monkeypatch.context() as patch:
            patch.setattr(task_flags, "try_accounting", partial(try_accounting, tmp_path))
            finds("clock attended then, wall now")
    monkeypatch.setattr(device, "version", lambda name: "0.0")
    finds(f"jax_version {version('jax')} then, 0.0 now")


def test_settings_are_not_compared_without_jax(
    doctor: Doctor, night: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "version", lambda name: version("no-such-package"))
    assert doctor("run", "--tag=night")[1]["settings"].startswith("not compared: ")


def test_settings_are_not_compared_without_a_dataset(doctor: Doctor, night: RunFolder, tmp_path: Path) -> None:
    status, found = doctor("dataset,run", "--tag=night", f"--data_dir={tmp_path / 'nothing'}")
    assert (status, found["faults"]) == (1, "dataset")
    assert found["settings"].startswith("not compared: ")


def test_a_ledger_with_which_the_run_cannot_go_on(doctor: Doctor, night: RunFolder, tmp_path: Path) -> None:
    def finds(says: str) -> None:
        before = states(night.path)
        status, found = doctor("run", "--tag=night")
        assert (status, found["faults"]) == (1, "ledger")
        assert found["ledger"].startswith(says), found["ledger"]
        assert states(night.path) == before
        shutil.copy(tmp_path / "kept.db", night.ledger)

    shutil.copy(night.ledger, tmp_path / "kept.db")
    connection = sqlite3.connect(night.ledger)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    finds("runs/night/ledger.db: the ledger has version 99 and this autoresearch reads ")

    data = bytearray(night.ledger.read_bytes())
    for page in range(4096, len(data), 4096):  # all but the first
        data[page : page + 100] = bytes(100)
    night.ledger.write_bytes(data)
    finds("runs/night/ledger.db: is damaged (")
    night.ledger.write_bytes(b"no database" * 100)
    finds("runs/night/ledger.db: is damaged (file is not a database); restore it from a copy")
    night.ledger.write_bytes(b"")
    finds("runs/night: has the files of a run, and its ledger.db is missing or empty; restore that from a copy")
    night.ledger.unlink()
    finds("runs/night: has the files of a run, and its ledger.db is missing or empty; restore that from a copy")
    with night.lock():
        holder = night.holder()
        status, found = doctor("run", "--tag=night")
    assert (status, found["ledger"].split(";")[0]) == (1, f"{holder} is at work on it")
    assert doctor("run", "--tag=night")[0] == 0


def test_a_run_s_folder_that_is_read_only(night: RunFolder) -> None:
    result = in_own_mounts(
        f"mount --bind {night.path} {night.path}; mount -o remount,bind,ro {night.path}",
        "--sections=run",
        "--tag=night",
    )
    assert result.returncode == 1, result.stderr
    found = lines(result.stdout)
    assert found["faults"] == "ledger"
    assert found["ledger"].startswith("runs/night, runs/night/ledger.db, runs/night/ledger.db.sha256: cannot be wr")


def test_a_place_for_snapshots_is_tried_and_left_as_it_was(doctor: Doctor, tmp_path: Path) -> None:
    there = tmp_path / "far"
    status, found = doctor("run", "--tag=night", f"--snapshot_dir={there / 'deep'}/")
    assert (status, found["faults"]) == (0, "none")
    assert found["snapshot_dir"].startswith(f"{there}/deep, which is not there yet: tried in {tmp_path}")
    assert not there.exists()
    (there / "night").mkdir(parents=True)
    before = states(there / "night")
    status, found = doctor("run", "--tag=night", f"--snapshot_dir={there}")
    assert (status, found["snapshot_dir"].split(",")[0]) == (0, str(there))
    assert [path.name for path in there.iterdir()] == ["night"]
    assert states(there / "night") == before
    assert doctor("run")[1]["snapshot_dir"] == "none, snapshots stay in the run's folder"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("gs:/bucket/x", "gs:/bucket/x: no place for snapshots; such a bucket is spelt gs://bucket/FOLDER"),
        ("ftp://host/x", "ftp://host/x: no place for snapshots; name a folder, or gs://BUCKET/FOLDER"),
        ("s3://bucket/x", "s3://bucket/x: s3:// needs the package s3fs, which is missing; in the checkout ./scripts/"),
        ("train_lib.py/x", "./train_lib.py: is no folder; name another --snapshot_dir"),
    ],
)
def test_a_place_to_which_no_snapshot_can_be_moved(
    place: str, says: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    status, found = doctor("run", f"--snapshot_dir={place}")
    assert (status, found["faults"]) == (1, "snapshot_dir")
    assert found["snapshot_dir"].startswith(says)


def test_a_bucket_is_tried_and_left_as_it_was(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gcsfs", reason="gs:// is tried where the extra dev is installed")
    from gcs_server import GcsServer

    with GcsServer().running() as server:
        assert main(["doctor", "--sections=run", "--tag=night", "--snapshot_dir=gs://bucket/far"]) == 0
        assert lines(capsys.readouterr().out)["snapshot_dir"] == "gs://bucket/far"
        assert server.count("POST") > 0
        assert server.names() == []
        assert main(["doctor", "--sections=run", "--snapshot_dir=gs://nothing/far"]) == 1
        assert lines(capsys.readouterr().out)["snapshot_dir"].startswith("gs://nothing/far: cannot be written: ")
