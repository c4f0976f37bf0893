"""`autoresearch doctor` tries what a run would do: its files, data, model, folders and ledger."""

import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from doctored import KEY, Doctor
from fakes import PROGRAM, SOURCE
from repositories import git

from autoresearch_jax.cli import main
from autoresearch_jax.commands import task_options
from autoresearch_jax.commands.run_options import DecisionOptions
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import run_settings
from autoresearch_jax.tasks.lm.data.dataset import Dataset, text_file
from autoresearch_jax.tasks.lm.data.prepare import prepare_dataset
from autoresearch_jax.tasks.lm.device import Device, device_terms
from autoresearch_jax.tasks.lm.task import LmTerms
from autoresearch_jax.types import Budget


def test_a_training_file_that_is_not_committed(doctor: Doctor, repo: Path, tmp_path: Path) -> None:
    (repo / "train_lib.py").write_text(SOURCE + "\n# more\n")
    status, found = doctor("git")
    assert (status, found["faults"]) == (1, "editable")
    assert "; run git commit train_lib.py" in found["editable"]
    assert found["worktree"].endswith("can be made"), "the rest is looked at all the same"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "train_lib.py").write_text(SOURCE)
    status, found = doctor("git", f"--editable={outside / 'train_lib.py'}")
    assert status == 1
    assert "; run git init && git add train_lib.py" in found["editable"]
    assert "; name the file to edit with --editable" in doctor("git", "--editable=nothing.py")[1]["editable"]


def test_a_branch_that_is_in_the_way(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("git", "--tag=night")
    assert status == 0
    git(repo, "branch", "autoresearch/night")
    status, found = doctor("git", "--tag=night")
    assert (status, found["faults"]) == (1, "editable")
    assert "; choose another --tag, or delete the branch" in found["editable"]
    assert doctor("git", "--tag=a b")[1]["faults"] == "editable"


@pytest.mark.parametrize(
    "then",
    ["kill -INT $PPID; sleep 1; exit 0", 'echo x > "$(ls -d .git/worktrees/workspace)/locked"; exit 9'],
)
def test_only_doctor_s_own_worktree_goes(
    then: str, doctor: Doctor, repo: Path, tmp_path: Path, wrapped_git: Callable[[str], None]
) -> None:
    """One of the user's that is on a disk which is not mounted now stays known, whatever git answers."""
    git(repo, "worktree", "add", "-q", "--detach", str(tmp_path / "disk" / "mine"))
    (tmp_path / "disk").rename(tmp_path / "away")
    refs = git(repo, "for-each-ref")
    wrapped_git(then)
    status = main(["doctor", "--sections=git"])
    assert status == (130 if "INT" in then else 1)
    assert [path.name for path in (repo / ".git" / "worktrees").iterdir()] == ["mine"]
    assert git(repo, "for-each-ref") == refs


def test_a_dataset_that_is_missing_or_damaged(
    doctor: Doctor,
    tiny_dataset: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{prepare_dataset.__module__}.readable_files", list)  # reading all packages takes seconds

    def follow(line: str) -> None:
        """Does what a line says helps."""
        for command in line.split("; ")[1].split(" && "):
            words = shlex.split(command.removeprefix("run `").partition("`")[0])
            if words[0] == "autoresearch":
                assert main(words[1:]) == 0
            else:
                subprocess.run(words, check=True)
        capsys.readouterr()

    status, found = doctor("dataset")
    assert (status, found["fingerprint"]) == (0, tiny_dataset.fingerprint)
    assert found["dataset_rows_256"].startswith(f"train {len(tiny_dataset.rows(256, 'train'))}, val ")
    there = f"--data_dir={tmp_path / 'data'}"
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset")
    follow(found["dataset"])
    assert doctor("dataset", there)[1]["dataset_files"].endswith("sizes and hashes as written")
    text = next((tmp_path / "data").glob(f"*/{text_file('val')}"))
    damaged = bytearray(text.read_bytes())
    damaged[100] ^= 1
    text.write_bytes(damaged)
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset_files")
    follow(found["dataset_files"])
    assert doctor("dataset", there)[0] == 0


@pytest.mark.parametrize(
    ("value", "is_ok"),
    [(KEY, True), (f"{KEY}\n", False), (f'"{KEY}"', False)],
)
def test_a_key_is_never_shown(
    value: str, is_ok: bool, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", value)
    status = main(
        ["doctor", "--sections=jax,git,key,run", f"--format={'text' if is_ok else 'json'}", "--proposer=hybrid"]
    )
    output = "".join(capsys.readouterr())
    assert status == (0 if is_ok else 1)
    assert not any(KEY[start : start + 4] in output for start in range(len(KEY) - 3))
    assert is_ok or "export GEMINI_API_KEY=..." in output


def test_ways_to_a_model(doctor: Doctor) -> None:
    assert doctor("key")[0] == 0
    status, found = doctor("key", "--proposer=gemini")
    assert (status, found["faults"]) == (1, "model")
    assert "needs a key in GEMINI_API_KEY" in found["model"]
    assert doctor("key", "--proposer=gemini", "--gemini_base_url=http://box")[1]["model"].endswith("can be asked")
    status, found = doctor("key", "--proposer=gemini", "--gemini_vertex_project=mine")
    assert (status, found["faults"]) == (1, "model")
    assert "no application-default credentials" in found["model"]


def test_a_page_or_a_proposer_that_would_end_a_run(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("run", "--proposer=command")
    assert (status, found["faults"]) == (1, "proposer")
    assert "--agent_command" in found["proposer"]
    status, found = doctor("run", "--proposer=command", "--agent_command=timeout 60 no-such-agent")
    assert (status, found["faults"]) == (1, "proposer")
    assert "no-such-agent" in found["proposer"].partition("when it was tried")[2]
    assert doctor("run", "--proposer=command", "--agent_command=true")[1]["agent"] == "starts"
    (repo / "program.md").write_text(PROGRAM.replace("- 8 experiments", "- 3 blue moons"))
    status, found = doctor("run")
    assert (status, found["faults"]) == (1, "program")
    assert found["program"].startswith("program.md:")


def test_no_room_for_a_run(doctor: Doctor, repo: Path) -> None:
    status, found = doctor("run", "--min_free_gb=1e9")
    assert (status, found["faults"]) == (1, "run_dir")
    assert "--min_free_gb" in found["run_dir"]
    (repo / "runs").write_text("")
    status, found = doctor("run")
    assert (status, found["faults"]) == (1, "run_dir")
    assert "Not a directory" in found["run_dir"]


@pytest.mark.parametrize("place", ["ftp://host/x", "s3://bucket/x"])
def test_a_place_to_which_no_snapshot_can_be_moved(
    place: str, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    status, found = doctor("run", f"--snapshot_dir={place}")
    assert (status, found["faults"]) == (1, "snapshot_dir")
    assert place.rpartition("/")[0] in found["snapshot_dir"]
    assert doctor("run", f"--snapshot_dir={tmp_path / 'far'}")[0] == 0
    assert list((tmp_path / "far").iterdir()) == []


@pytest.fixture
def night(repo: Path, tiny_dataset: Dataset) -> RunFolder:
    """A run in that repository that began with the flags of `doctor`, and has no driver."""
    folder = RunFolder(repo / "runs" / "night")
    folder.create()
    budget = Budget(seconds=task_options.DEFAULT_BUDGET_SECONDS)
    clock = task_options.find_clock("auto", "cpu", print)
    machine = device_terms(Device("cpu", "cpu", 1, None), {"data": 1, "model": 1}, budget, clock)
    terms = LmTerms(tiny_dataset, budget, None, machine)
    made = DecisionOptions()
    settings = run_settings("train_lib.py", 0, terms, made.rule(terms.metric), made.pruning(), made.certification())
    with closing(Ledger.open(folder.ledger)) as ledger:
        ledger.save_settings(settings)
        folder.write_settings(ledger.settings())
        ledger.begin_experiment(Intent(Kind.BASELINE, SOURCE))
    return folder


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--budget_steps=20", "budget_seconds 300.0 then, None now; budget_steps None then, 20 now"),
        ("--seed=7", "seed 0 then, 7 now"),
        ("--decision=greedy", "decision lineage then, greedy now"),
        ("--mesh=data=2", "num_devices 1 then, 2 now"),
    ],
)
def test_flags_that_are_not_the_run_s_own(flag: str, says: str, doctor: Doctor, night: RunFolder) -> None:
    assert doctor("run", "--tag=night")[1]["ledger"].endswith("the run goes on with these flags")
    assert doctor("run", "--tag=day")[1]["ledger"] == "none yet, the run begins"
    status, found = doctor("run", "--tag=night", flag)
    assert (status, found["faults"]) == (1, "ledger")
    assert f"runs/night was started with other settings ({says}" in found["ledger"]
    assert found["ledger"].endswith("; use the same ones, or another --tag")


def test_a_ledger_with_which_the_run_cannot_go_on(doctor: Doctor, night: RunFolder) -> None:
    kept = night.ledger.read_bytes()

    def finds(says: str) -> None:
        status, found = doctor("run", "--tag=night")
        assert (status, found["faults"]) == (1, "ledger")
        assert says in found["ledger"]
        night.ledger.write_bytes(kept)

    with closing(sqlite3.connect(night.ledger)) as connection:
        connection.execute("PRAGMA user_version = 99")
    finds("version 99")
    night.ledger.write_bytes(b"no database" * 100)
    finds("runs/night/ledger.db")
    night.ledger.write_bytes(b"")
    finds("its ledger.db is missing or empty; restore that from a copy")
    with night.lock():
        finds(f"{night.holder()} is at work on ")
    assert doctor("run", "--tag=night")[0] == 0
