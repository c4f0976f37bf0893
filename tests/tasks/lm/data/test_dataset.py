"""What a dataset holds is what its text says; its fingerprint changes with what a score depends on, and only then."""

import dataclasses
import hashlib
import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from autoresearch_jax.tasks.lm.data.corpus import Corpus, open_corpus, split_of
from autoresearch_jax.tasks.lm.data.dataset import SPLITS, Dataset, DatasetError, dataset_folder, read_split
from autoresearch_jax.tasks.lm.data.overlap import FilesText
from autoresearch_jax.tasks.lm.data.prepare import prepare_dataset, write_splits
from autoresearch_jax.tasks.lm.data.text_files import Document, Skipped


def prepare(data_dir: Path, spec: str, reporter, sizes: tuple[int, ...] = (256,), length: int = 32) -> Dataset:
    corpus: Corpus = open_corpus(spec)
    folder = data_dir / corpus.name
    return prepare_dataset(folder, corpus, sequence_length=length, vocab_sizes=sizes, reporter=reporter)


def write_documents(folder: Path, texts: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"files:{folder}/*.jsonl"


TEXTS = [f"Document number {i} says {i * i}, {i**3} and good-bye.\n" * (1 + i % 3) for i in range(200)]


def test_rows_hold_the_text_of_their_split(tiny_dataset: Dataset) -> None:
    for size in tiny_dataset.vocab_sizes:
        tokenizer = tiny_dataset.tokenizer(size)
        for split in SPLITS:
            rows = tiny_dataset.rows(size, split)
            texts = list(read_split(tiny_dataset.folder, split))
            assert isinstance(rows, np.memmap)
            assert not rows.flags.writeable
            assert rows.dtype == np.uint16
            assert rows.shape == (tiny_dataset.manifest.rows[f"rows/{size}x32/{split}.npy"], 33)
            total = sum(1 + len(tokenizer.encode(text)) for text in texts)
            assert 0 <= total - rows.size < 33  # no padding, and nothing lost but what cannot fill a row
            assert 0 <= len(texts) - (rows == tokenizer.bos_id).sum() <= 1
            # Every row is text: its pieces, cut at BOS, are found in the documents.
            for row in rows[:20]:
                for piece in tokenizer.decode(row).split("<|bos|>"):
                    clean = piece.strip("\ufffd")
                    assert any(clean in text for text in texts)


def test_byte_counts_and_token_counts(tiny_dataset: Dataset) -> None:
    for size in tiny_dataset.vocab_sizes:
        rows = tiny_dataset.rows(size, "train")
        num_bytes = tiny_dataset.tokenizer(size).num_bytes()
        assert num_bytes.dtype == tiny_dataset.tokenizer(size).num_bytes_original().dtype == np.int32
        assert num_bytes.shape == tiny_dataset.tokenizer(size).num_bytes_original().shape == (size,)
        counts = tiny_dataset.train_counts(size)
        assert counts.dtype == np.int64
        assert (counts == np.bincount(np.asarray(rows).ravel(), minlength=size)).all()
        text_bytes = tiny_dataset.manifest.splits["train"].bytes
        assert 0 <= text_bytes - int(num_bytes[rows].sum()) < 33 * num_bytes.max()
        assert (tiny_dataset.tokenizer(size).num_bytes_original() >= num_bytes)[num_bytes == 1].all()


def test_splits_are_disjoint_by_content_and_about_as_large_as_meant(tmp_path: Path, reporter) -> None:
    texts = [f"text {i} of many" for i in range(3000)]
    spec = write_documents(tmp_path / "in", [*texts, *texts[:50]])
    dataset = prepare(tmp_path, spec, reporter)
    found = {split: list(read_split(dataset.folder, split)) for split in SPLITS}
    assert sorted(chain.from_iterable(found.values())) == sorted(texts)
    assert dataset.manifest.skipped == {"duplicate": 50}
    for split, share in (("val", 0.04), ("holdout", 0.04), ("train", 0.92)):
        assert all(split_of(hashlib.sha256(text.encode()).digest()) == split for text in found[split])
        assert share * 3000 == pytest.approx(len(found[split]), abs=45)  # four standard deviations
        assert dataset.manifest.splits[split].documents == len(found[split])
        assert dataset.manifest.splits[split].bytes == sum(len(text.encode()) for text in found[split])


def test_fingerprint_ignores_later_vocabularies_and_lengths(tmp_path: Path, reporter) -> None:
    spec = write_documents(tmp_path / "in", TEXTS)
    first = prepare(tmp_path, spec, reporter, (256,))
    before = {name: entry.sha256 for name, entry in first.manifest.files.items()}
    text_time = (first.folder / "text/train.jsonl").stat().st_mtime_ns
    prepare(tmp_path, spec, reporter, (300, 270))
    prepare(tmp_path, spec, reporter, (270,), length=16)

    def opened(*sizes: int, length: int = 32) -> Dataset:
        return Dataset.open(first.folder, sequence_length=length, vocab_sizes=sizes or None)

    assert opened(256).fingerprint == first.fingerprint
    assert opened().vocab_sizes == (256, 270, 300)
    assert opened(length=16).vocab_sizes == (270,)
    assert len({opened(*s).fingerprint for s in ((256,), (270,), (256, 270), (256, 270, 300))}) == 4
    assert opened(270, 256).fingerprint == opened(256, 270).fingerprint
    assert opened(270, length=16).fingerprint != opened(270).fingerprint
    assert before.items() <= {name: entry.sha256 for name, entry in opened().manifest.files.items()}.items()
    assert (first.folder / "text/train.jsonl").stat().st_mtime_ns == text_time  # only what was missing was made
    assert reporter.stages.count("vocabulary 270: learning") == 1


def test_changed_files_are_noticed(tmp_path: Path, reporter) -> None:
    spec = write_documents(tmp_path / "in", TEXTS)
    first = prepare(tmp_path, spec, reporter)
    assert prepare(tmp_path, spec, reporter) == first
    assert reporter.notes == []
    write_documents(tmp_path / "in", [*TEXTS, "one more"])
    second = prepare(tmp_path, spec, reporter)
    assert any("corpus has changed" in note for note in reporter.notes)
    assert second.fingerprint != first.fingerprint
    assert sum(count.documents for count in second.manifest.splits.values()) == len(TEXTS) + 1


@pytest.mark.parametrize("name", ["rows/256x32/val.npy", "tokenizers/256.json", "text/val.jsonl"])
def test_damage_is_found_and_mended(tmp_path: Path, reporter, name: str) -> None:
    spec = write_documents(tmp_path / "in", TEXTS)
    whole = prepare(tmp_path, spec, reporter)
    assert whole.verify() == []
    path = whole.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # same size: only the hash tells
    assert whole.verify() == [name]
    path.write_bytes(content[:-1])
    with pytest.raises(DatasetError, match=f"{path.name} is missing or has been changed: run `autoresearch prepare"):
        Dataset.open(whole.folder, sequence_length=32)
    path.unlink()
    assert whole.verify() == [name]
    mended = prepare(tmp_path, spec, reporter)
    assert mended.verify() == []
    assert mended.manifest == whole.manifest


def test_rows_that_are_no_rows_are_said_to_be_none(tiny_dataset: Dataset, tmp_path: Path) -> None:
    dataset = dataclasses.replace(tiny_dataset, folder=tmp_path)
    path = tmp_path / "rows/256x32/holdout.npy"
    path.parent.mkdir(parents=True)
    remedy = r": remove it and run `autoresearch prepare --corpus=\S+ --name=\S+ --vocab_sizes=256,320 "
    with pytest.raises(DatasetError, match=rf"holdout\.npy cannot be read \(.*No such file.*\){remedy}"):
        dataset.rows(256, "holdout")
    np.save(path, np.empty((0, 33), np.uint16))
    with pytest.raises(DatasetError, match=rf"holdout\.npy holds no row{remedy}"):
        dataset.rows(256, "holdout")


def test_what_is_missing_comes_with_the_command(tiny_dataset: Dataset, tmp_path: Path) -> None:
    folder, spec = tiny_dataset.folder, tiny_dataset.manifest.corpus
    with pytest.raises(DatasetError, match=r"has the vocabularies 256, 320 .* not 512") as caught:
        Dataset.open(folder, sequence_length=32, vocab_sizes=(256, 512))
    assert f"autoresearch prepare --corpus={spec} --vocab_sizes=256,512 --sequence_length=32" in str(caught.value)
    with pytest.raises(DatasetError, match=r"no rows of length 64.*--sequence_length=64"):
        Dataset.open(folder, sequence_length=64)
    with pytest.raises(DatasetError, match=r"no dataset in .*: run `autoresearch prepare --sequence_length=64"):
        Dataset.open(dataset_folder(tmp_path, "stdlib"), sequence_length=64)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"cannot read .*manifest\.json"):
        Dataset.open(tmp_path, sequence_length=64)


def test_documents_that_are_left_out_are_named(tmp_path: Path, reporter) -> None:
    (tmp_path / "in").mkdir()
    spec = write_documents(tmp_path / "in", TEXTS)
    with (tmp_path / "in/texts.jsonl").open("a") as file:
        file.write('{"text": null}\n{"text": " "}\n')
    dataset = prepare(tmp_path, spec, reporter)
    (note,) = reporter.notes
    assert note.startswith("left out, since it is empty or null: ")
    assert note.endswith(f"{tmp_path}/in/texts.jsonl, line 201; {tmp_path}/in/texts.jsonl, line 202")
    assert dataset.manifest.skipped == {"empty": 2}
    assert len(dataset.manifest.skipped_examples["empty"]) == 2


def test_too_small(tmp_path: Path, reporter) -> None:
    with pytest.raises(DatasetError, match="too small, none of its 1 documents falls into"):
        prepare(tmp_path, write_documents(tmp_path / "in", ["just one"]), reporter)
    with pytest.raises(DatasetError, match=r"the text of \w+ does not fill one row of 100000 tokens"):
        prepare(tmp_path, write_documents(tmp_path / "in", TEXTS), reporter, length=100_000)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("files")] == []
    assert not list(tmp_path.glob(".*.staging"))


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path, reporter) -> None:
    spec = write_documents(tmp_path / "in", TEXTS)
    corpus = open_corpus(spec)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    arguments = {"sequence_length": 32, "vocab_sizes": (256,), "reporter": reporter}
    with pytest.raises(DatasetError, match="no dataset, and in the way"):
        prepare_dataset(tmp_path / "mine", corpus, **arguments)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    prepare_dataset(tmp_path / "other", corpus, **arguments)
    with pytest.raises(DatasetError, match=r"was made from --corpus=files:.*choose another --name"):
        prepare_dataset(tmp_path / "other", open_corpus("stdlib"), **arguments)


def test_a_corpus_with_its_own_splits_keeps_what_its_makers_repeated(tmp_path: Path) -> None:
    documents = [
        *(Document(text, "val") for text in ("a", "b", "a")),
        *(Document(text, "holdout") for text in ("c", "b", "c")),
        *(Document(text, "train") for text in ("d", "a", "c", "d", "e")),
    ]
    skipped = Skipped()
    counts = write_splits(documents, tmp_path, skipped, FilesText(list), lambda: None)
    found = {split: list(read_split(tmp_path, split)) for split in SPLITS}
    assert found == {"val": ["a", "b", "a"], "holdout": ["c", "c"], "train": ["d", "d", "e"]}
    assert skipped.counts == {"duplicate": 3}
    assert {split: count.documents for split, count in counts.items()} == {"val": 3, "holdout": 2, "train": 3}


def test_what_a_candidate_can_read_is_in_no_split_that_scores(
    tmp_path: Path, reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(f"{i}{word}{i * word}" for word in range(60)) for i in range(200)]
    package = tmp_path / "packages/copies.py"
    package.parent.mkdir()
    package.write_text("def indented():\n    " + "\n    ".join(text.replace(" ", "\n    ") for text in texts[::2]))
    monkeypatch.setattr("autoresearch_jax.tasks.lm.data.prepare.readable_files", lambda: [package])
    dataset = prepare(tmp_path, write_documents(tmp_path / "in", texts), reporter)
    splits = {text: split_of(hashlib.sha256(text.encode()).digest()) for text in texts}
    for split in SPLITS:
        left = [text for text in texts if splits[text] == split and (split == "train" or text not in texts[::2])]
        assert list(read_split(dataset.folder, split)) == left
    count = sum(splits[text] != "train" for text in texts[::2])
    assert dataset.manifest.skipped == {"readable_in_sandbox": count}
    assert all("texts.jsonl, line " in place for place in dataset.manifest.skipped_examples["readable_in_sandbox"])
    assert "1 text files" in dataset.manifest.source["compared_with"]
    assert any("texts.jsonl, line " in note for note in reporter.notes)


def test_a_disk_without_room_is_found_before_anything_is_written(
    tmp_path: Path, reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_documents(tmp_path / "in", TEXTS)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(DatasetError, match=r"needs about 0\.00 GB more in .*, where 0\.00 GB are free: make room"):
        prepare(tmp_path, spec, reporter)
    assert reporter.stages == []


def test_an_interrupted_call_is_gone_on_with(tmp_path: Path, reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write_documents(tmp_path / "in", TEXTS)

    def interrupt(*args: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autoresearch_jax.tasks.lm.data.prepare.add_vocabulary", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, spec, reporter)
    assert reporter.stages == ["reading the corpus"]
    whole = prepare(tmp_path, spec, reporter)
    assert reporter.stages.count("reading the corpus") == 1
    assert whole.verify() == []
    # but not if the corpus is another by then
    with monkeypatch.context() as patch:
        patch.setattr("autoresearch_jax.tasks.lm.data.prepare.add_vocabulary", interrupt)
        write_documents(tmp_path / "in", TEXTS[:150])
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, spec, reporter)
    assert Dataset.open(whole.folder, sequence_length=32) == whole  # until there is another, whole
    write_documents(tmp_path / "in", TEXTS[:160])
    assert sum(count.documents for count in prepare(tmp_path, spec, reporter).manifest.splits.values()) == 160
