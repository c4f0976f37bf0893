"""Snapshots and eval bundles: whole, checked by hash, enough to judge with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.dataset import Dataset, DatasetError
from autoresearch_jax.tasks.lm.integrity import (
    FORMAT_VERSION,
    EvalBundleError,
    SnapshotError,
    eval_bundle_differences,
    keep_eval_bundle,
    load_manifest,
    snapshot_damage,
    snapshot_differences,
    take_inventory,
)
from autoresearch_jax.tasks.lm.judge import load_eval_set

FACTS = {"platform": "cpu", "mesh": {"data": 1, "model": 1}}


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    (folder / "state" / "d").mkdir(parents=True)
    (folder / "state" / "d" / "array").write_bytes(b"numbers")
    (folder / "tokenizer.json").write_text("[]")
    files = {name: vars(entry) for name, entry in take_inventory(folder).items()}
    (folder / "manifest.json").write_text(json.dumps({**FACTS, "format_version": FORMAT_VERSION, "files": files}))
    return folder


def differences(folder: Path) -> list[str]:
    return [line.removeprefix(f"{folder}/") for line in snapshot_damage(folder, None)]


def test_files_missing_changed_and_new_are_named(snapshot: Path) -> None:
    assert differences(snapshot) == []
    (snapshot / "state" / "d" / "array").write_bytes(b"numbErs")
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "more").mkdir()
    (snapshot / "more" / "manifest.json").write_text("{}")
    assert differences(snapshot) == [
        "tokenizer.json: is missing: restore it from a copy",
        "more/manifest.json: was not there when it was written: restore it from a copy",
        "state/d/array: has been changed: restore it from a copy",
    ]


def test_a_link_is_no_file_of_the_snapshot_even_to_the_same_bytes(snapshot: Path) -> None:
    (snapshot / "tokenizer.json").rename(snapshot.parent / "outside")
    (snapshot / "tokenizer.json").symlink_to(snapshot.parent / "outside")
    (snapshot / "folder").symlink_to(snapshot.parent)
    (snapshot / "nowhere").symlink_to(snapshot.parent / "gone")
    assert [line.split(":")[0] for line in differences(snapshot)] == ["folder", "nowhere", "tokenizer.json"]


def test_another_format_and_a_damaged_list_are_refused(snapshot: Path) -> None:
    for version in (FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        (snapshot / "manifest.json").write_text(json.dumps({**FACTS, "format_version": version}))
        with pytest.raises(SnapshotError, match=f"snapshot: format {version}, this version reads {FORMAT_VERSION}"):
            load_manifest(snapshot)
    (snapshot / "manifest.json").write_text("{}")
    with pytest.raises(SnapshotError, match="snapshot: a snapshot of another task"):
        load_manifest(snapshot)
    for files in (None, {"a": {"size": 1}}, ["a"], {"a": 1}):
        manifest = {**FACTS, "format_version": FORMAT_VERSION, "files": files}
        with pytest.raises(SnapshotError, match=r"manifest.json: damaged: the list of files"):
            snapshot_differences(snapshot, manifest)


def test_an_eval_bundle_is_enough_to_judge_with(tiny_dataset: Dataset, tmp_path: Path) -> None:
    sha256 = keep_eval_bundle(tiny_dataset, "val", tmp_path / "bundle")
    assert sha256 == sha256_of_file(tmp_path / "bundle" / "manifest.json")
    assert keep_eval_bundle(replace(tiny_dataset, folder=tmp_path / "gone"), "val", tmp_path / "bundle") == sha256
    assert eval_bundle_differences(tmp_path / "bundle", "val") == []
    bundle = Dataset.open(tmp_path / "bundle", sequence_length=32, only_split="val")
    assert bundle.vocab_sizes == (256, 320)
    assert bundle.fingerprint == tiny_dataset.fingerprint
    for size in bundle.vocab_sizes:
        mine, its = (load_eval_set(dataset, size, "val", None, seed=3) for dataset in (bundle, tiny_dataset))
        for name in vars(mine):
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))


def test_an_eval_bundle_holds_neither_train_rows_nor_holdout_nor_text(tiny_dataset: Dataset, tmp_path: Path) -> None:
    keep_eval_bundle(tiny_dataset, "val", tmp_path / "bundle")
    names = sorted(path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*.*"))
    rows = [f"rows/{size}x32/{name}.npy" for size in (256, 320) for name in ("train_counts", "val")]
    assert names == ["manifest.json", *rows, "tokenizers/256.json", "tokenizers/320.json"]
    with pytest.raises(DatasetError, match=r"text/train.jsonl is missing"):
        Dataset.open(tmp_path / "bundle", sequence_length=32)


def test_only_the_vocabularies_that_are_offered_are_copied(tiny_dataset: Dataset, tmp_path: Path) -> None:
    one = Dataset.open(tiny_dataset.folder, sequence_length=32, vocab_sizes=(320,))
    keep_eval_bundle(one, "val", tmp_path / "bundle")
    assert Dataset.open(tmp_path / "bundle", sequence_length=32, only_split="val").fingerprint == one.fingerprint
    assert not (tmp_path / "bundle" / "tokenizers" / "256.json").exists()


def test_a_damaged_bundle_or_dataset_is_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    keep_eval_bundle(tiny_dataset, "val", tmp_path / "bundle")
    damage(tmp_path / "bundle" / "rows" / "320x32" / "val.npy")
    with pytest.raises(EvalBundleError, match=r"320x32/val.npy: has been changed: delete .*bundle, run `autoresearch"):
        keep_eval_bundle(tiny_dataset, "val", tmp_path / "bundle")

    copy = shutil.copytree(tiny_dataset.folder, tmp_path / "data")
    damage(copy / "tokenizers" / "256.json")
    with pytest.raises(EvalBundleError, match=r"second/tokenizers/256.json: has been changed"):
        keep_eval_bundle(replace(tiny_dataset, folder=copy), "val", tmp_path / "second")
    (copy / "tokenizers" / "256.json").unlink()
    with pytest.raises(EvalBundleError, match=r"third: the eval bundle cannot be written: .*256.json"):
        keep_eval_bundle(replace(tiny_dataset, folder=copy), "val", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
