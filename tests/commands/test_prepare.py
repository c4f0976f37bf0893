"""`autoresearch prepare` as a user calls it: killed, doubled and called wrongly."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoresearch_jax.cli import main
from autoresearch_jax.tasks.lm.data.dataset import Dataset

COMMAND = [sys.executable, "-m", "autoresearch_jax.cli", "prepare"]
HEAVY = ("jax", "grain", "pyarrow", "tiktoken", "rustbpe", "rich")


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


def prepare(*flags: str) -> Result:
    """Calls the command in this process."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        status = main(["prepare", *flags])
    return Result(status, out.getvalue(), err.getvalue())


def figures(output: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines())


def manifest(data_dir: Path) -> dict[str, object]:
    (path,) = data_dir.glob("*/manifest.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Text that takes about a second to prepare, so that there is a middle to be killed in.

    Its documents are too short to be compared with all packages.
    """
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3000)]
    folder = tmp_path_factory.mktemp("texts")
    for number in range(4):
        texts = (" ".join(draw.choices(words, k=draw.randint(5, 30))) for _ in range(3000))
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"--corpus=files:{folder}/*.jsonl"


def test_prints_what_was_made_and_the_second_call_does_nothing(corpus: str, uninterrupted: dict[str, object]) -> None:
    flags = (corpus, "--vocab_sizes=512,256", f"--data_dir={uninterrupted['data_dir']}", "--sequence_length=64")
    first = uninterrupted["done"]
    assert "vocabulary 512: packing train" in first.stderr
    made = figures(first.stdout)
    dataset = Dataset.open(Path(made["dataset"]), sequence_length=64, vocab_sizes=(256, 512))
    assert made["fingerprint"] == dataset.fingerprint
    assert made["documents"] == "12000"
    assert made["vocab_sizes"] == "256 512"
    assert made["train_rows"] == f"{len(dataset.rows(256, 'train'))} {len(dataset.rows(512, 'train'))}"
    assert float(made["prepare_seconds"]) > 0
    before = {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*")}
    second = prepare(*flags)
    again = figures(second.stdout)
    assert again.pop("made") == "no, it was there"
    assert again.items() <= {**made, "prepare_seconds": again["prepare_seconds"]}.items()
    assert second.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*")} == before
    third = json.loads(prepare(*flags, "--format=json").stdout)
    assert third["fingerprint"] == made["fingerprint"]
    assert third["vocab_sizes"] == [256, 512]


def test_the_second_call_loads_nothing_heavy(tiny_dataset: Dataset) -> None:
    flags = [
        "prepare",
        f"--corpus={tiny_dataset.manifest.corpus}",
        f"--data_dir={tiny_dataset.folder.parent}",
        "--vocab_sizes=256,320",
        "--sequence_length=32",
    ]
    script = (
        f"import sys; from autoresearch_jax.cli import main; status = main({flags!r}); "
        f"print('loaded:', sorted(set({HEAVY!r}) & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "made: no, it was there" in done.stdout
    assert "loaded: []" in done.stdout


@pytest.mark.parametrize(
    "share", [pytest.param(0.15, marks=pytest.mark.slow), 0.5, pytest.param(0.8, marks=pytest.mark.slow)]
)
def test_killed_in_the_middle(corpus: str, tmp_path: Path, share: float, uninterrupted: dict[str, object]) -> None:
    flags = (corpus, "--vocab_sizes=256,512", f"--data_dir={tmp_path}", "--sequence_length=64")
    with subprocess.Popen([*COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(share * uninterrupted["seconds"])
        process.send_signal(signal.SIGKILL)
    for path in tmp_path.glob("files-*/manifest.json"):
        Dataset.open(path.parent, sequence_length=64, vocab_sizes=(256, 512))  # if it is there, it is whole
    done = prepare(*flags)
    assert done.returncode == 0, done.stderr
    assert manifest(tmp_path) == uninterrupted["manifest"]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == [
        Path(figures(done.stdout)["dataset"]).name
    ]


@pytest.mark.slow
def test_killed_while_a_vocabulary_is_added(corpus: str, tmp_path: Path, uninterrupted: dict[str, object]) -> None:
    flags = (corpus, f"--data_dir={tmp_path}", "--sequence_length=64")
    first = figures(prepare(*flags, "--vocab_sizes=256").stdout)
    for pause in (0.35, 0.5, 0.65):
        with subprocess.Popen([*COMMAND, *flags, "--vocab_sizes=512"], stderr=subprocess.DEVNULL) as process:
            time.sleep(pause)
            process.kill()
        opened = Dataset.open(Path(first["dataset"]), sequence_length=64, vocab_sizes=(256,))
        assert opened.fingerprint == first["fingerprint"]
    assert prepare(*flags, "--vocab_sizes=512").returncode == 0
    assert manifest(tmp_path) == uninterrupted["manifest"]


def test_two_calls_at_once(corpus: str, tmp_path: Path, uninterrupted: dict[str, object]) -> None:
    flags = (corpus, f"--data_dir={tmp_path}", "--sequence_length=64")
    calls = [
        subprocess.Popen([*COMMAND, *flags, f"--vocab_sizes={sizes}"], stdout=subprocess.PIPE, text=True)
        for sizes in ("256,512", "512")
    ]
    outputs = [call.communicate(timeout=600)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0]
    assert len({figures(output)["dataset"] for output in outputs}) == 1
    assert manifest(tmp_path) == uninterrupted["manifest"]


@pytest.fixture(scope="module")
def uninterrupted(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    data_dir = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    done = prepare(corpus, "--vocab_sizes=256,512", f"--data_dir={data_dir}", "--sequence_length=64")
    assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - start + 1.0  # a process has imports to do
    return {"manifest": manifest(data_dir), "seconds": seconds, "data_dir": data_dir, "done": done}


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--corpus=wikipedia"], 2, "--corpus=wikipedia: there is no such corpus"),
        (["--corpus=files:{tmp}/*.txt"], 1, "no file matches"),
        (["--corpus=files:{tmp}/bad.jsonl"], 1, "bad.jsonl, line 2: not JSON"),
        (["--corpus=files:{tmp}/empty.jsonl"], 1, "there is no text in it (left out: 1 empty)"),
        (["--corpus=files:{tmp}/few.jsonl"], 1, "too small, none of its 2 documents"),
        (["--corpus=files:{tmp}/good.jsonl", "--vocab_sizes=100000"], 1, "100000 is too large for this text"),
        (["--vocab_sizes=255"], 2, "--vocab_sizes=255: vocabulary size 255"),
        (["--corpus=files:{tmp}/good.jsonl", "--data_dir={tmp}/good.jsonl"], 1, "cannot write the dataset"),
        (["--remove="], 2, "--remove is empty: name a dataset"),
        (["--remove=none"], 2, "--remove=none: there is no such dataset or rows in"),
        (["stdlib"], 2, "unexpected argument 'stdlib'"),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, flags: list[str], status: int, message: str) -> None:
    lines = "".join(json.dumps({"text": f"{i} bottles " * 9}) + "\n" for i in range(200))
    (tmp_path / "good.jsonl").write_text(lines)
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\nnot json\n')
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    (tmp_path / "few.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    words = [flag.format(tmp=tmp_path) for flag in (f"--data_dir={tmp_path}/data", *flags)]
    done = prepare(*words)
    assert done.returncode == status, done.stderr
    complaint = done.stderr.splitlines()[-1]
    assert message in complaint
    assert complaint.startswith("autoresearch prepare: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    data = tmp_path / "data"
    assert not data.exists() or [name for name in os.listdir(data) if not name.endswith(".lock")] == []
