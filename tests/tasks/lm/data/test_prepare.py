"""What the folder of all datasets holds is listed in full, and can be removed in parts."""

import json
from pathlib import Path

import pytest

from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks.lm.data.corpus import open_corpus
from autoresearch_jax.tasks.lm.data.dataset import Dataset, DatasetError
from autoresearch_jax.tasks.lm.data.prepare import list_parts, prepare_dataset, remove

SIZES = (256, 300)


@pytest.fixture
def data_dir(tmp_path: Path, reporter) -> Path:
    """Two datasets: "first" with two vocabularies and two lengths, "second" with one of each."""
    texts = [f"Document number {i} says {i * i} and good-bye.\n" for i in range(200)]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = open_corpus(f"files:{source}")
    for name, sizes, length in (("first", SIZES, 32), ("first", (300,), 16), ("second", (256,), 32)):
        folder = tmp_path / "data" / name
        prepare_dataset(folder, corpus, sequence_length=length, vocab_sizes=sizes, reporter=reporter)
    return tmp_path / "data"


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_list(data_dir: Path) -> None:
    (data_dir / ".third.staging").mkdir()
    (data_dir / ".third.staging/text").write_text("half a text")
    (data_dir / "mine").mkdir()
    parts = {(part.dataset, part.name): part for part in list_parts(data_dir)}
    assert list(parts) == [
        ("first", "text"),
        ("first", "256x32"),
        ("first", "300x16"),
        ("first", "300x32"),
        ("second", "text"),
        ("second", "256x32"),
        ("third", "unfinished"),
    ]
    assert parts["third", "unfinished"].bytes == 11
    for (dataset, name), part in parts.items():
        if name not in ("unfinished", "text"):
            assert part.bytes == bytes_of(data_dir / dataset / "rows" / name)
            size, length = map(int, name.split("x"))
            opened = Dataset.open(data_dir / dataset, sequence_length=length)
            assert part.train_rows == len(opened.rows(size, "train"))
    assert list_parts(data_dir / "nowhere") == []


def test_what_interrupted_calls_left_is_seen_and_swept(data_dir: Path) -> None:
    first = data_dir / "first"
    (first / ".scratch/rows/320x32").mkdir(parents=True)
    (first / ".scratch/rows/320x32/train.npy").write_bytes(b"?" * 100)
    (first / "rows/280x32").mkdir()
    (first / "rows/280x32/val.npy").write_bytes(b"?" * 10)
    (data_dir / ".gone.replaced/rows").mkdir(parents=True)
    (data_dir / ".gone.replaced/rows/a").write_bytes(b"?")
    parts = {(part.dataset, part.name): part.bytes for part in list_parts(data_dir)}
    assert parts["first", "unfinished"] == 100
    assert parts["first", "280x32"] == 10
    assert parts["gone", "unfinished"] == 1
    remove(data_dir, "gone", lambda: None)
    remove(data_dir, "first/280x32", lambda: None)
    remove(data_dir, "first/256x32", lambda: None)
    assert {part.name for part in list_parts(data_dir)} == {"text", "256x32", "300x16", "300x32"}
    assert {part.name for part in list_parts(data_dir) if part.dataset == "first"} == {"text", "300x16", "300x32"}


def test_remove_rows(data_dir: Path, reporter) -> None:
    before = bytes_of(data_dir / "first/rows")
    freed = remove(data_dir, "first/300x32", lambda: None)
    assert freed == before - bytes_of(data_dir / "first/rows")
    first = data_dir / "first"
    assert Dataset.open(first, sequence_length=32).vocab_sizes == (256,)
    assert Dataset.open(first, sequence_length=16).vocab_sizes == (300,)  # which still needs its vocabulary
    assert Dataset.open(first, sequence_length=16).verify() == []
    with pytest.raises(DatasetError, match=r"has the vocabularies 256 .* not 300: run `autoresearch prepare"):
        Dataset.open(first, sequence_length=32, vocab_sizes=(300,))
    remove(data_dir, "first/300x16", lambda: None)
    assert not (first / "tokenizers/300.json").exists()
    assert sorted(path.name for path in (first / "rows").iterdir()) == ["256x32"]
    # what was removed can be made again
    corpus = open_corpus(Dataset.open(first, sequence_length=32).manifest.corpus)
    again = prepare_dataset(first, corpus, sequence_length=32, vocab_sizes=SIZES, reporter=reporter)
    assert again.verify() == []


def test_remove_a_dataset(data_dir: Path) -> None:
    (data_dir / ".first.staging").mkdir()
    freed = remove(data_dir, "first", lambda: None)
    assert freed > 0
    assert not (data_dir / "first").exists()
    assert {part.dataset for part in list_parts(data_dir)} == {"second"}
    assert [path.name for path in data_dir.iterdir() if path.name.startswith(".first") and path.suffix != ".lock"] == []
    assert Dataset.open(data_dir / "second", sequence_length=32).verify() == []


@pytest.mark.parametrize("what", ["third", "first/300x64", "first/text", "../data", "", "/etc"])
def test_what_is_not_there_is_not_removed(what: str, data_dir: Path) -> None:
    before = list_parts(data_dir)
    with pytest.raises(UsageError, match=r"there is no such dataset or rows in .*, only first, second"):
        remove(data_dir, what, lambda: None)
    assert list_parts(data_dir) == before
