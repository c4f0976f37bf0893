"""A run's copy of what the judge reads: whole, checked by hash, enough to judge with and to tell the fingerprint."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.dataset import Dataset, DatasetError
from autoresearch_jax.tasks.lm.exam import ExamError, exam_differences, keep_exam
from autoresearch_jax.tasks.lm.judge import make_exam


def test_an_exam_is_enough_to_judge_with(tiny_dataset: Dataset, tmp_path: Path) -> None:
    sha256 = keep_exam(tiny_dataset, "val", tmp_path / "exam")
    assert sha256 == sha256_of_file(tmp_path / "exam" / "manifest.json")
    assert exam_differences(tmp_path / "exam", "val") == []
    exam = Dataset.open(tmp_path / "exam", sequence_length=32, only_split="val")
    assert exam.vocab_sizes == (256, 320)
    assert exam.fingerprint == tiny_dataset.fingerprint
    for size in exam.vocab_sizes:
        mine, its = make_exam(exam, size, "val", None), make_exam(tiny_dataset, size, "val", None)
        for name in vars(mine):
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))


def test_an_exam_holds_neither_train_rows_nor_holdout_nor_text(tiny_dataset: Dataset, tmp_path: Path) -> None:
    keep_exam(tiny_dataset, "val", tmp_path / "exam")
    names = sorted(path.relative_to(tmp_path / "exam").as_posix() for path in (tmp_path / "exam").rglob("*.*"))
    rows = [f"rows/{size}x32/{name}.npy" for size in (256, 320) for name in ("train_counts", "val")]
    assert names == ["manifest.json", *rows, "tokenizers/256.json", "tokenizers/320.json"]
    with pytest.raises(DatasetError, match=r"text/train.jsonl is missing"):
        Dataset.open(tmp_path / "exam", sequence_length=32)


def test_only_the_vocabularies_that_are_offered_are_copied(tiny_dataset: Dataset, tmp_path: Path) -> None:
    one = Dataset.open(tiny_dataset.folder, sequence_length=32, vocab_sizes=(320,))
    keep_exam(one, "val", tmp_path / "exam")
    assert Dataset.open(tmp_path / "exam", sequence_length=32, only_split="val").fingerprint == one.fingerprint
    assert not (tmp_path / "exam" / "tokenizers" / "256.json").exists()


def test_an_exam_is_made_once(tiny_dataset: Dataset, tmp_path: Path) -> None:
    first = keep_exam(tiny_dataset, "val", tmp_path / "exam")
    elsewhere = replace(tiny_dataset, folder=tmp_path / "gone")
    assert keep_exam(elsewhere, "val", tmp_path / "exam") == first


def test_a_damaged_exam_or_dataset_is_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    keep_exam(tiny_dataset, "val", tmp_path / "exam")
    damage(tmp_path / "exam" / "rows" / "320x32" / "val.npy")
    with pytest.raises(ExamError, match=r"320x32/val.npy: has been changed: delete .*exam, run `autoresearch prepare"):
        keep_exam(tiny_dataset, "val", tmp_path / "exam")

    copy = shutil.copytree(tiny_dataset.folder, tmp_path / "data")
    damage(copy / "tokenizers" / "256.json")
    with pytest.raises(ExamError, match=r"second/tokenizers/256.json: has been changed"):
        keep_exam(replace(tiny_dataset, folder=copy), "val", tmp_path / "second")
    (copy / "tokenizers" / "256.json").unlink()
    with pytest.raises(ExamError, match=r"third: the exam cannot be written: .*256.json"):
        keep_exam(replace(tiny_dataset, folder=copy), "val", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
