"""`autoresearch verify`: a run's folder scores again what it says it scored, and one flipped byte anywhere is named."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from finished_night import Night

from autoresearch_jax.cli import main
from autoresearch_jax.commands.verify import verify
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.database import hash_file
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import write_results
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.verification import RecordedTrial, verify_snapshot
from autoresearch_jax.types import Metric, Status

SNAPSHOT = "snapshots/0001-0003"  # of experiment 1, which has one trial; the champion, experiment 0, has two


@pytest.fixture(scope="module")
def night(finished: Night, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder of a finished run, elsewhere than its repository."""
    copy = tmp_path_factory.mktemp("night") / "night"
    shutil.copytree(finished.folder.path, copy, symlinks=True)
    (copy / "workspace" / ".git").write_text("gitdir: /nowhere\n")
    return copy


def differences(folder: Path) -> list[str]:
    return verify(RunFolder(folder), 1).differences


@contextmanager
def changed(path: Path, position: int, draw: random.Random) -> Iterator[None]:
    """A byte of a file is another one meanwhile."""
    data = path.read_bytes()
    other = data[position] ^ draw.randrange(1, 256)
    path.write_bytes(data[:position] + bytes([other]) + data[position + 1 :])
    try:
        yield
    finally:
        path.write_bytes(data)


def files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def parts(night: Path) -> list[Path]:
    """Every file that verifying experiment 1 vouches for."""
    snapshot = night / SNAPSHOT
    programs = night / "programs" / json.loads((snapshot / "manifest.json").read_text())["program_hash"]
    texts = [night / "run.json", night / "results.tsv", night / "workspace" / "train_lib.py", hash_file(ledger(night))]
    return [*files(snapshot, night / "eval_bundle", programs), *texts]


def ledger(night: Path) -> Path:
    return night / "ledger.db"


def test_the_folder_alone_gives_the_score_again(night: Path) -> None:
    code = "import sys; from autoresearch_jax.cli import main; main(sys.argv[1:]); sys.exit('jax' in sys.modules)"
    dataset = json.loads((night / SNAPSHOT / "manifest.json").read_text())["dataset"]
    hook = f"lambda event, args: os._exit(9) if event == 'open' and str(args[0]).startswith({dataset!r}) else None"
    command = [sys.executable, "-c", f"import os, sys; sys.addaudithook({hook}); {code}", "verify", str(night)]
    result = subprocess.run([*command, "--experiment=1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    found = {name: value.strip() for name, value in (line.split(":", 1) for line in result.stdout.splitlines())}
    assert found["verified"] == "yes"
    assert found["val_bpb_then"] == found["val_bpb_now"]
    assert f"{float(found['val_bpb_now']):.6f}" == (night / "results.tsv").read_text().splitlines()[2].split("\t")[1]
    figures = {"verified", "run", "experiment", "snapshot", "val_bpb_then", "val_bpb_now", "difference"}
    not_ok = {name for name, value in found.items() if value != "ok"} - figures
    assert not_ok == {"verified_trials", "commits"}
    assert found["commits"] == "skipped: no repository of the run at hand"


def test_an_experiment_by_tag_as_json(night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", "night", f"--run_dir={night.parent}", "--experiment=1", "--format=json"]
    assert main(command) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert (parsed["verified"], parsed["experiment"], parsed["difference"], parsed["differences"]) == (True, 1, 0, [])
    with changed(night / SNAPSHOT / "tokenizer.json", 9, random.Random(0)):
        assert main(command) == 1
    parsed = json.loads(capsys.readouterr().out)
    assert (parsed["verified"], parsed["val_bpb_now"], parsed["snapshot_files"]) == (False, None, "differs")
    assert (parsed["experiment"], parsed["snapshot"]) == (1, str(night / SNAPSHOT))
    (line,) = parsed["differences"]
    assert line.endswith(f"{SNAPSHOT}/tokenizer.json: has been changed: restore it from a copy")


@pytest.mark.parametrize("count", [5, pytest.param(None, marks=pytest.mark.slow)])
def test_one_flipped_byte_in_any_file_is_found_and_named(count: int | None, night: Path) -> None:
    draw = random.Random(3)
    tried = [path for path in parts(night) if path.stat().st_size]
    assert len(tried) > 30
    for path in tried if count is None else draw.sample(tried, count):
        with changed(path, draw.randrange(path.stat().st_size), draw):
            found = differences(night)
        assert len(found) == 1, (path, found)
        assert path.name in found[0], "the file is named"
        assert path.name == hash_file(ledger(night)).name or found[0].startswith(str(path))
    assert differences(night) == []


@pytest.mark.slow
def test_files_that_are_gone_and_files_too_many_are_named(night: Path) -> None:
    for path in parts(night):
        if path == hash_file(ledger(night)):
            continue  # is made when the driver ends, so a driver that was killed leaves none
        away = path.rename(night / "away")
        found = differences(night)
        away.rename(path)
        assert len(found) == 1, (path, found)
        assert found[0].startswith(str(path))
    for folder in (f"{SNAPSHOT}/state", SNAPSHOT, "eval_bundle", "eval_bundle/rows/new"):
        extra = night / folder / "extra"
        extra.parent.mkdir(exist_ok=True)
        extra.write_text("more")
        (line,) = differences(night)
        extra.unlink()
        assert line == f"{extra}: was not there when it was written: restore it from a copy"
    assert differences(night) == []


@pytest.mark.slow
def test_a_copy_without_its_snapshot_does_not_lean_on_the_original(unhashed: Path) -> None:
    gone = unhashed / SNAPSHOT
    shutil.rmtree(gone)
    with closing(Ledger.open_to_read(ledger(unhashed))) as book:
        (trial,) = book.trials(1)
    assert trial.snapshot is not None
    assert trial.snapshot.is_dir(), "the original's"
    report = verify(RunFolder(unhashed), 1)
    (line,) = report.differences
    assert line.startswith(
        f"{gone}: is missing: restore it from a copy, or train another like it: `autoresearch trial "
    )
    assert line.endswith("/copy:1`")
    assert report.checks["snapshot_files"] == "differs"
    assert report.figures["val_bpb_now"] is None


def test_a_flipped_byte_anywhere_in_the_ledger_is_found(night: Path) -> None:
    draw = random.Random(4)
    for _ in range(30):
        with changed(ledger(night), draw.randrange(ledger(night).stat().st_size), draw):
            found = differences(night)
        assert found
        assert all(line.startswith(str(ledger(night))) for line in found), found


@pytest.fixture
def unhashed(night: Path, tmp_path: Path) -> Path:
    """A copy of the run whose driver was killed: there is no hash of the ledger."""
    copy = shutil.copytree(night, tmp_path / "copy", symlinks=True)
    hash_file(ledger(copy)).unlink()
    return copy


@pytest.mark.slow
def test_settings_that_are_gone_are_missed_by_their_copy(unhashed: Path) -> None:
    connection = sqlite3.connect(ledger(unhashed))
    connection.execute("DELETE FROM settings")
    connection.commit()
    connection.close()
    lost = (
        f"{ledger(unhashed)}: cannot be understood: the settings lack direction, editable, fingerprint, metric: "
        "restore it from a copy"
    )
    copy = f"{unhashed / 'run.json'}:1: is not the ledger's settings: one of the two was changed"
    assert differences(unhashed) == [copy, lost]
    (unhashed / "run.json").unlink()
    assert differences(unhashed) == [lost]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "no run named: `autoresearch verify NAME`, or the run's folder in place of its name"),
        (["gone"], 1, "runs/gone/ledger.db: no ledger there; name a run, or its folder"),
        (["night", "day"], 2, "unexpected argument 'day': one run at a time"),
        (["night", "--tag=night"], 2, "name the run once"),
        (["{night}", "--experiment=7"], 1, "there is no experiment 7; `autoresearch results` lists them"),
    ],
)
def test_bad_calls_get_one_line(
    arguments: list[str],
    status: int,
    message: str,
    night: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may have runs of its own
    assert main(["verify", *(argument.format(night=night) for argument in arguments)]) == status
    error = capsys.readouterr().err
    assert error.startswith("autoresearch verify: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_run_at_work_is_left_alone(night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(night).lock():
        assert main(["verify", str(night)]) == 1
    assert "is at work on this run: verify it when it has ended" in capsys.readouterr().err


def test_a_ledger_of_a_newer_version_is_refused_by_its_version(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(night, tmp_path / "copy", symlinks=True)
    connection = sqlite3.connect(ledger(copy))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"autoresearch verify: {ledger(copy)}: the ledger has version 99 and this auto")
    assert said.err.count("\n") == 1


def test_a_ledger_that_sqlite_cannot_read_is_named_with_its_damage(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(night, tmp_path / "copy", symlinks=True)
    ledger(copy).write_bytes(b"no database" * 100)
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert f"\ndiffers:             {ledger(copy)}: not the bytes that " in said.out
    assert "file is not a database: restore it from a copy" in said.out


@pytest.mark.slow
def test_a_refactoring_is_verified_by_the_trial_of_its_twin(unhashed: Path) -> None:
    book = Ledger.open(ledger(unhashed))
    measured = book.experiment(1)
    intent = Intent(Kind.PROPOSAL, book.source(1), measured.constants, "shorter", parent=1)
    number = book.begin_experiment(intent).id
    book.set_program(number, str(measured.program_hash))
    reason = "a proven refactoring"
    book.conclude(number, Status.DUPLICATE, measured.score, Action.KEEP, reason, None, 0.1)
    (unhashed / "workspace" / "train_lib.py").write_text(book.source(1))
    write_results(unhashed / "results.tsv", book, Metric("val_bpb"))
    book.close()
    report = verify(RunFolder(unhashed), None)
    assert report.differences == []
    assert (report.figures["experiment"], report.figures["measured_as"], report.figures["difference"]) == (2, 1, 0)


def test_a_score_that_was_written_over_is_found_by_scoring_again(unhashed: Path) -> None:
    """As by someone who knows of the hash: the numbers are better than the model."""
    connection = sqlite3.connect(ledger(unhashed))
    for table, column in (("experiments", "score"), ("trials", "value")):
        connection.execute(f"UPDATE {table} SET {column} = {column} - 1e-9 WHERE id = (SELECT min(id) FROM {table})")
    connection.commit()
    connection.close()
    (line,) = verify(RunFolder(unhashed), None).differences
    assert f"{unhashed / 'snapshots' / '0000-0001'}: scores " in line
    assert "not equal to the last digit" in line


@pytest.mark.slow
def test_a_trial_by_hand_is_verified_with_its_dataset(
    tiny_dataset: Dataset, tiny_source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(tiny_dataset.folder, tmp_path / "data" / tiny_dataset.folder.name)
    (tmp_path / "train_lib.py").write_text(tiny_source)
    flags = [f"--corpus={tiny_dataset.manifest.corpus}", f"--data_dir={data.parent}", "--sequence_length=32"]
    flags += ["--vocab_sizes=256,320"]
    flags += [f"--editable={tmp_path / 'train_lib.py'}", "--budget_steps=5", "--compile_cache=", "--platform=cpu"]
    trials = RunFolder(tmp_path / "trials")
    trials.create()
    trials.results.write_text("the table of a run\n")
    assert main(["trial", *flags, f"--run_dir={tmp_path}"]) == 0
    assert [line.split("\t")[3] for line in trials.results.read_text().splitlines()] == ["status", "trial"]
    report = verify(trials, 0)
    assert report.differences == []
    assert report.figures["difference"] == 0
    assert report.checks["eval_bundle"] == f"ok; the run has no eval bundle, read from {data}"
    assert report.checks["fingerprint"] == "ok"

    # as if it were not known what it was made with
    (snapshot,) = (trials.path / "snapshots").iterdir()
    with closing(Ledger.open_to_read(trials.ledger)) as book:
        (trial,) = book.trials()
    assert trial.value is not None
    recorded = RecordedTrial(trial.value * (1 + 5e-5), trial.seed, None, tiny_dataset.fingerprint, None, None, None)
    manifest = json.loads((snapshot / "manifest.json").read_text())
    del manifest["made_with"]
    (snapshot / "manifest.json").write_text(json.dumps(manifest))
    check = partial(verify_snapshot, snapshot, trials.eval_bundle, None, environment=os.environ, confined=False)
    findings = check(recorded)
    assert not findings.differs, findings
    assert findings.notes["score"].startswith(
        "compared within 0.0001 of it: it is not known what it was made with, jax"
    )
    assert check(replace(recorded, value=trial.value * 1.0002)).differs

    (line,) = verify(trials, 0).differences
    assert line == f"{snapshot / 'manifest.json'}: has been changed: restore it from a copy"
    data.rename(tmp_path / "gone")
    findings = check(recorded)
    assert findings.checks["eval_bundle"] == [
        f"{data}: the dataset is gone, and there is no eval bundle in its place: run `autoresearch prepare` again"
    ]
    capsys.readouterr()
    assert main(["verify", "trials", f"--run_dir={tmp_path}"]) == 1
    assert (
        "there is no champion; `autoresearch results` lists them, --experiment=N names one" in capsys.readouterr().err
    )


def test_a_machine_that_runs_no_program_is_no_difference(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    assert main(["verify", "night", f"--run_dir={night.parent}", "--experiment=1"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "Unknown flag in XLA_FLAGS" in said.err
