"""`autoresearch verify`: a run's folder scores again what it says it scored, and one flipped byte anywhere is named."""

import json
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoresearch_jax.cli import main
from autoresearch_jax.commands.verify import verify
from autoresearch_jax.lm.dataset import Dataset
from autoresearch_jax.search.run_folder import RunFolder
from autoresearch_jax.search.seals import seal_of

PAGE = """## You may change

| constant | values |
|---|---|
| LEARNING_RATE | 1.0 .. 30.0 log |

## Stop when

- 1 experiment
"""


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words], cwd=folder, check=True)


@pytest.fixture(scope="module")
def night(tiny_dataset: Dataset, tiny_source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; its repository and its dataset are gone."""
    place = tmp_path_factory.mktemp("night")
    data = shutil.copytree(tiny_dataset.folder.parent, place / "data")
    repo = place / "repo"
    repo.mkdir()
    (repo / "train_lib.py").write_text(tiny_source)
    (repo / "program.md").write_text(PAGE)
    git(repo, "init", "-q")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "start")
    arguments = [
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={data}",
        *("--sequence_length=32", "--vocab_sizes=256,320", "--budget_steps=20", "--compile_cache=", "--platform=cpu"),
        *(f"--editable={repo / 'train_lib.py'}", f"--program={repo / 'program.md'}"),
        *(f"--run_dir={place / 'runs'}", "--tag=night"),
    ]
    assert main(["run", *arguments]) == 0
    (place / "runs" / "night").rename(place / "night")
    repo.rename(place / "gone")
    data.rename(place / "lost")
    return place / "night"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autoresearch_jax.cli", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def differences(folder: Path) -> list[str]:
    return verify(RunFolder(folder), None).differences


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
    """Every file that verifying the champion vouches for."""
    snapshot = night / "snapshots" / "0000-0001"
    (programs,) = (path.parent for path in (night / "programs").rglob("train_lib.py") if _is_baseline(path))
    texts = [night / "run.json", night / "results.tsv", night / "workspace" / "train_lib.py", seal_of(ledger(night))]
    return [*files(snapshot, night / "exam", programs), *texts]


def _is_baseline(path: Path) -> bool:
    return "LEARNING_RATE = 10.0" in path.read_text()


def ledger(night: Path) -> Path:
    return night / "ledger.db"


def test_the_folder_alone_gives_the_score_again(night: Path) -> None:
    result = call(str(night))
    assert result.returncode == 0, result.stdout + result.stderr
    found = {name: value.strip() for name, value in (line.split(":", 1) for line in result.stdout.splitlines())}
    assert found["verified"] == "yes"
    assert found["val_bpb_then"] == found["val_bpb_now"]
    assert f"{float(found['val_bpb_now']):.6f}" == (night / "results.tsv").read_text().splitlines()[1].split("\t")[1]
    figures = {"verified", "run", "experiment", "snapshot", "val_bpb_then", "val_bpb_now", "difference"}
    not_ok = {name for name, value in found.items() if value != "ok"} - figures
    assert not_ok == {"verified_trials", "commits"}
    assert found["commits"] == "skipped: no repository of the run at hand"


def test_another_experiment_by_tag_as_json(night: Path) -> None:
    result = call("night", f"--run_dir={night.parent}", "--experiment=1", "--format=json")
    assert result.returncode == 0, result.stdout + result.stderr
    parsed = json.loads(result.stdout)
    assert (parsed["verified"], parsed["experiment"], parsed["difference"], parsed["differences"]) == (True, 1, 0, [])
    assert parsed["snapshot"].endswith("0001-0002")
    with changed(night / "snapshots" / "0001-0002" / "tokenizer.json", 9, random.Random(0)):
        result = call("night", f"--run_dir={night.parent}", "--experiment=1", "--format=json")
    assert result.returncode == 1
    parsed = json.loads(result.stdout)
    assert (parsed["verified"], parsed["val_bpb_now"], parsed["snapshot_files"]) == (False, None, "differs")
    (line,) = parsed["differences"]
    assert line.endswith("0001-0002/tokenizer.json: has been changed: restore it from a copy")


def test_one_flipped_byte_in_any_file_is_found_and_named(night: Path) -> None:
    draw = random.Random(3)
    assert differences(night) == []
    tried = [path for path in parts(night) if path.stat().st_size]
    assert len(tried) > 30
    for path in tried:
        with changed(path, draw.randrange(path.stat().st_size), draw):
            found = differences(night)
        assert len(found) == 1, (path, found)
        assert path.name in found[0], "the file is named"
        assert path.name == seal_of(ledger(night)).name or found[0].startswith(str(path))
    assert differences(night) == []


def test_files_that_are_gone_and_files_too_many_are_named(night: Path) -> None:
    for path in parts(night):
        if path == seal_of(ledger(night)):
            continue  # is made when the driver ends, so a driver that was killed leaves none
        away = path.rename(night / "away")
        found = differences(night)
        away.rename(path)
        assert len(found) == 1, (path, found)
        assert found[0].startswith(str(path))
    for folder in ("snapshots/0000-0001/state", "snapshots/0000-0001", "exam", "exam/rows/new"):
        extra = night / folder / "extra"
        extra.parent.mkdir(exist_ok=True)
        extra.write_text("more")
        (line,) = differences(night)
        extra.unlink()
        assert line == f"{extra}: was not there when it was written: restore it from a copy"
    assert differences(night) == []


def test_a_flipped_byte_anywhere_in_the_ledger_is_found(night: Path) -> None:
    draw = random.Random(4)
    for _ in range(100):
        with changed(ledger(night), draw.randrange(ledger(night).stat().st_size), draw):
            found = differences(night)
        assert found
        assert all(line.startswith(str(ledger(night))) for line in found), found


@pytest.fixture
def unsealed(night: Path, tmp_path: Path) -> Path:
    """A copy of the run whose driver was killed: nothing but the rows' own seals vouches for the ledger."""
    copy = shutil.copytree(night, tmp_path / "copy", symlinks=True)
    seal_of(ledger(copy)).unlink()
    assert differences(copy) == []
    return copy


@pytest.mark.parametrize("table", ["experiments", "trials"])
def test_a_flipped_byte_in_any_cell_is_found_by_its_row(unsealed: Path, table: str) -> None:
    draw = random.Random(5)
    path = ledger(unsealed)
    connection = sqlite3.connect(path)
    cursor = connection.execute(f"SELECT * FROM {table} WHERE id = 1")
    row = dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))
    connection.close()
    tried = 0
    for name, value in row.items():
        if not isinstance(value, str | float) or value == "":
            continue
        data = value.encode() if isinstance(value, str) else struct.pack(">d", value)
        if name == "source":
            data = data[:200]  # what is longer goes on in another page
        place = path.read_bytes().find(data)
        if place < 0 or (path.read_bytes().count(data) > 1 and len(data) < 32):
            continue  # a short word such as "ok" stands in other places too
        for _ in range(3):
            with changed(path, place + draw.randrange(len(data)), draw):
                found = differences(unsealed)
            assert found, name
            assert any(line.startswith(f"{path}: ") for line in found), (name, found)
        tried += 1
    assert tried > 4


def test_a_flipped_byte_in_the_settings_is_found_by_their_copy(unsealed: Path) -> None:
    data = ledger(unsealed).read_bytes()
    with changed(ledger(unsealed), data.find(b"train_lib.py") + 3, random.Random(8)):
        found = differences(unsealed)
    assert any("run.json:2: is not the ledger's settings: one of the two was changed" in line for line in found), found


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--tag is missing"),
        (["gone"], 1, "runs/gone/ledger.db: no ledger there; name a run, or its folder"),
        (["night", "day"], 2, "unexpected argument 'day': one run at a time"),
        (["night", "--tag=night"], 2, "name the run once"),
        (["{night}", "--experiment=7"], 1, "there is no experiment 7; `autoresearch results` lists them"),
    ],
)
def test_bad_calls_get_one_line(
    arguments: list[str], status: int, message: str, night: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *(argument.format(night=night) for argument in arguments)]) == status
    error = capsys.readouterr().err
    assert error.startswith("autoresearch verify: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_run_at_work_is_left_alone(night: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(night).lock():
        assert main(["verify", str(night)]) == 1
    assert "is at work on this run: verify it when it has ended" in capsys.readouterr().err
