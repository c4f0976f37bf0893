"""`autoresearch prepare` of corpora on the hub, against one on loopback with the faults that hubs have."""

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hub_server import COMMIT, Fault, Hub
from pyarrow import parquet
from small_disk import small_disk

from autoresearch_jax.tasks.lm.data.dataset import Dataset, read_split

CLIMBMIX = "karpathy/climbmix-400b-shuffle"
TINYSTORIES = "karpathy/tinystories-gpt4-clean"
STORIES = "tinystories_gpt4_clean.parquet"
SHARDS = ("shard_00000.parquet", "shard_00001.parquet", "shard_06541.parquet", "shard_06542.parquet")
FLAGS = ("--sequence_length=32", "--vocab_sizes=300")


def texts_of(seed: int, number: int) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(300)]
    return [f"{seed}.{i} " + " ".join(draw.choices(words, k=draw.randint(5, 30))) for i in range(number)]


def parquet_of(texts: list[str] | None = None, **columns: list[object]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": texts} if texts is not None else columns), file, row_group_size=64)
    return file.getvalue()


TEXTS = {name: texts_of(seed, 400 if seed < 2 else 120) for seed, name in enumerate(SHARDS)}
REPEATED = TEXTS["shard_06542.parquet"][7]  # a document of val that is in train, too, and twice in val
TEXTS["shard_00000.parquet"][3] = REPEATED
TEXTS["shard_06542.parquet"].append(REPEATED)
FILES = {name: parquet_of(texts) for name, texts in TEXTS.items()}
WANTED_BYTES = sum(map(len, FILES.values()))
FILES["shard_00002.parquet"] = parquet_of(texts_of(9, 200))  # a third shard, which most calls do not ask for
CONTENT = FILES[SHARDS[0]]


@pytest.fixture
def climbmix() -> Iterator[Hub]:
    with Hub(CLIMBMIX, FILES) as hub:
        yield hub


def command(data_dir: Path, *flags: str) -> list[str]:
    words = ["--corpus=climbmix", "--num_shards=2", *FLAGS, f"--data_dir={data_dir}", *flags]
    return [sys.executable, "-m", "autoresearch_jax.cli", "prepare", *words]


def prepare(
    data_dir: Path, environment: Mapping[str, str], *flags: str, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    words = command(data_dir, *flags)
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def figures(output: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines())


def manifest(data_dir: Path) -> dict[str, object]:
    (path,) = data_dir.glob("*/manifest.json")
    return json.loads(path.read_text())


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line.startswith("autoresearch prepare: ")
    return line


def left_in(data_dir: Path) -> list[str]:
    return [path.name for path in data_dir.iterdir() if path.suffix != ".lock"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `prepare` worked at the first go: data, and home of the hub's files."""
    folder = tmp_path_factory.mktemp("whole")
    with Hub(CLIMBMIX, FILES) as hub:
        done = prepare(folder / "data", hub.environment(folder / "home"))
    assert done.returncode == 0, done.stderr
    made = figures(done.stdout)
    assert (made["corpus"], made["dataset"]) == ("climbmix:2", str(folder / "data/climbmix-2"))
    assert f"fetching 4 files of {CLIMBMIX}, {WANTED_BYTES / 1e6:.1f} MB" in done.stderr
    assert {request.authorization for request in hub.requests} == {None}
    return folder


@pytest.fixture
def wanted(whole: Path) -> dict[str, object]:
    """The manifest when nothing goes wrong."""
    return json.loads((whole / "data/climbmix-2/manifest.json").read_text())


def test_the_originals_corpus(climbmix: Hub, whole: Path, wanted: dict[str, object], tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, symlinks=True, dirs_exist_ok=True)
    environment = climbmix.environment(tmp_path / "home")
    folder = tmp_path / "data/climbmix-2"
    assert wanted["source"].items() >= {"repository": CLIMBMIX, "commit": COMMIT}.items()

    # val and holdout are the pinned shards, in their order; train has none of their documents
    assert list(read_split(folder, "val")) == TEXTS["shard_06542.parquet"]
    assert list(read_split(folder, "holdout")) == TEXTS["shard_06541.parquet"]
    train = TEXTS["shard_00000.parquet"] + TEXTS["shard_00001.parquet"]
    assert list(read_split(folder, "train")) == [text for text in train if text != REPEATED]
    assert wanted["skipped"] == {"duplicate": 1}

    # the original's four special tokens, of which BOS is the first
    dataset = Dataset.open(folder, sequence_length=32, vocab_sizes=(300,))
    tokenizer = dataset.tokenizer(300)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.reserved) == (300, 296, 3)
    assert (np.asarray(dataset.rows(300, "train"))[:, 0] == 296).all()  # each row begins with a document
    assert (
        dataset.tokenizer(300).num_bytes()[296:].tolist()
        == dataset.tokenizer(300).num_bytes_original()[296:].tolist()
        == [0] * 4
    )

    # what is there needs no hub, with a further vocabulary neither
    more = prepare(tmp_path / "data", environment, "--vocab_sizes=300,320")
    assert figures(more.stdout)["vocab_sizes"] == "300 320"
    # and a further shard only that shard, from where every other program looks for it as well
    larger = prepare(tmp_path / "data", environment, "--num_shards=3")
    assert larger.returncode == 0, larger.stderr
    fetched = {request.path for request in climbmix.requests if "/storage/" in request.path}
    assert fetched == {"/storage/shard_00002.parquet"}
    script = (
        "from huggingface_hub import hf_hub_download as get; "
        f"print(get({CLIMBMIX!r}, 'shard_00002.parquet', repo_type='dataset', revision={COMMIT!r}))"
    )
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=offline, check=True)
    assert Path(found.stdout.strip()).read_bytes() == climbmix.files["shard_00002.parquet"]


def test_stories_are_split_by_their_hash(tmp_path: Path) -> None:
    texts = texts_of(5, 600)
    with Hub(TINYSTORIES, {STORIES: parquet_of(texts)}) as hub:
        flags = ("--corpus=tinystories", *FLAGS, f"--data_dir={tmp_path}/data")
        done = subprocess.run(
            [sys.executable, "-m", "autoresearch_jax.cli", "prepare", *flags],
            capture_output=True,
            text=True,
            timeout=120,
            env=hub.environment(tmp_path / "home", HF_TOKEN="hf_secret"),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # who has a token is known to the hub, but not to the storage that it sends us to
        by_hub = {request.authorization for request in hub.requests if TINYSTORIES in request.path}
        assert by_hub == {"Bearer hf_secret"}
        assert [request.authorization for request in hub.asked_for(STORIES)] == [None]
    found = [list(read_split(tmp_path / "data/tinystories", split)) for split in ("train", "val", "holdout")]
    assert sorted(text for split in found for text in split) == sorted(texts)
    assert all(found)
    tokenizer = Dataset.open(tmp_path / "data/tinystories", sequence_length=32).tokenizer(300)
    assert (tokenizer.bos_id, tokenizer.reserved) == (299, 0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            Fault(flipped=True),
            f"{SHARDS[0]} does not have the SHA-256 that the hub names: check the connection",
        ),
        pytest.param(
            Fault(503),
            "the hub answers 503 when asked for the dataset karpathy/climbmix-400b-shuffle: check HF_ENDPOINT",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Fault(size=2000), f"file should be of size {len(CONTENT)} but has size 2000", marks=pytest.mark.slow
        ),
    ],
)
def test_a_bad_day_of_the_hub_and_a_file_that_cannot_be_had(
    fault: Fault, message: str, climbmix: Hub, tmp_path: Path, wanted: dict[str, object]
) -> None:
    climbmix.always[SHARDS[0]] = fault
    climbmix.faults[SHARDS[1]] = [Fault(flipped=True)]
    climbmix.faults[SHARDS[2]] = [Fault(429)]
    climbmix.faults[SHARDS[3]] = [Fault(cut=1000), Fault(cut=500)]
    done = prepare(tmp_path / "data", climbmix.environment(tmp_path / "home"))
    assert message in complaint(done)
    assert left_in(tmp_path / "data") == []
    # the next call fetches what is missing and no more
    cached = {path.name for path in (tmp_path / "home").glob("**/snapshots/*/*")} - {SHARDS[0]}
    asked = len(climbmix.requests)
    del climbmix.always[SHARDS[0]]
    assert prepare(tmp_path / "data", climbmix.environment(tmp_path / "home")).returncode == 0
    fetched = {request.path for request in climbmix.requests[asked:] if "/storage/" in request.path}
    assert fetched == {f"/storage/{name}" for name in {*SHARDS} - cached}
    assert manifest(tmp_path / "data") == wanted


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_download_that_was_ended_keeps_whole_shards(
    number: signal.Signals, climbmix: Hub, tmp_path: Path, wanted: dict[str, object]
) -> None:
    climbmix.faults[SHARDS[0]] = [Fault(drip=0.3)]
    environment = climbmix.environment(tmp_path / "home")
    words = command(tmp_path / "data")
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "home").glob("**/snapshots/*/*"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        start = time.monotonic()
        _, error = process.communicate(timeout=60)
        assert time.monotonic() - start < 20, "the rest would take 30 s"
    assert process.returncode == -number
    assert "Traceback" not in error
    assert prepare(tmp_path / "data", environment).returncode == 0
    assert manifest(tmp_path / "data") == wanted
    assert [len(climbmix.asked_for(name)) for name in SHARDS] == [2, 1, 1, 1]


@pytest.mark.slow
def test_without_a_connection(climbmix: Hub, tmp_path: Path, wanted: dict[str, object]) -> None:
    environment = climbmix.environment(tmp_path / "home")
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert "HF_HUB_OFFLINE" in complaint(prepare(tmp_path / "data", offline))
    assert climbmix.requests == []
    assert prepare(tmp_path / "data", environment).returncode == 0
    # from the cache: with the variable, and where no server answers
    assert prepare(tmp_path / "offline", offline).returncode == 0
    assert prepare(tmp_path / "alone", {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}).returncode == 0
    assert manifest(tmp_path / "offline") == manifest(tmp_path / "alone") == wanted
    more = complaint(prepare(tmp_path / "offline", offline, "--num_shards=3"))
    assert "shard_00002.parquet" in more
    blob = next((tmp_path / "home").rglob(f"blobs/{hashlib.sha256(CONTENT).hexdigest()}"))
    blob.write_bytes(CONTENT[:-1] + b"?")
    assert f"{SHARDS[0]} does not have the SHA-256" in complaint(prepare(tmp_path / "damaged", offline))
    mended = prepare(tmp_path / "mended", environment)
    assert f"{SHARDS[0]}: damaged, so fetched again" in mended.stderr
    assert manifest(tmp_path / "mended") == wanted


def test_a_hub_that_is_none(climbmix: Hub, tmp_path: Path) -> None:
    environment = climbmix.environment(tmp_path / "home")
    del climbmix.files["shard_06541.parquet"]
    assert "has no file shard_06541.parquet" in complaint(prepare(tmp_path / "data", environment))
    climbmix.repository = "someone/else"
    environment = climbmix.environment(tmp_path / "other")
    assert "the hub answers 404 when asked for the dataset" in complaint(prepare(tmp_path / "data", environment))


@pytest.mark.slow
def test_an_endpoint_that_is_no_url(climbmix: Hub, tmp_path: Path) -> None:
    environment = {**climbmix.environment(tmp_path / "home"), "HF_ENDPOINT": "nonsense"}
    assert "check the connection and HF_ENDPOINT" in complaint(prepare(tmp_path / "data", environment))


def test_a_disk_without_room_for_the_shards(tmp_path: Path) -> None:
    large = np.random.default_rng(0).bytes(8_000_000)
    with Hub(CLIMBMIX, {**FILES, "shard_00001.parquet": large}) as hub:
        (tmp_path / "disk").mkdir()
        with small_disk(tmp_path / "disk") as disk:
            done = disk.run(command(tmp_path / "data"), env=hub.environment(tmp_path / "disk/home"))
            line = complaint(done)
            assert "0.01 GB are to be fetched into" in line
            assert "0.00 GB are free: make room, or name another place in --cache_dir or HF_HOME" in line
        assert not [request for request in hub.requests if "/storage/" in request.path]
