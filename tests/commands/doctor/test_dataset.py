"""`autoresearch doctor`, section dataset."""

import shutil
from pathlib import Path

import pytest
from doctor_calls import Doctor, follow

from autoresearch_jax.tasks.lm.data.dataset import Dataset, text_file


def test_a_dataset_is_described(doctor: Doctor, tiny_dataset: Dataset) -> None:
    status, found = doctor("dataset")
    assert status == 0
    assert found["fingerprint"] == tiny_dataset.fingerprint
    rows = len(tiny_dataset.rows(256, "train"))
    assert found["dataset_rows_256"].startswith(f"train {rows}, val ")
    assert found["dataset_files"].endswith("sizes and hashes as written")


def test_no_dataset(doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor("dataset", f"--data_dir={tmp_path / 'data'}")
    assert (status, found["faults"]) == (1, "dataset")
    follow(found["dataset"])
    capsys.readouterr()
    assert doctor("dataset", f"--data_dir={tmp_path / 'data'}")[1]["faults"] == "none"


def test_a_dataset_that_lacks_something_or_is_damaged(
    doctor: Doctor, tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "data"
    folder = shutil.copytree(tiny_dataset.folder, data_dir / tiny_dataset.folder.name)
    there = f"--data_dir={data_dir}"
    status, found = doctor("dataset", there, "--vocab_sizes=256,512")
    assert (status, found["faults"]) == (1, "dataset")
    assert "; autoresearch prepare " in found["dataset"]
    assert "--vocab_sizes=256,512" in found["dataset"]

    text = folder / text_file("val")
    damaged = bytearray(text.read_bytes())
    damaged[100] ^= 1
    text.write_bytes(damaged)
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset_files")
    assert found["dataset_files"].startswith(f"{text_file('val')}: not as written; rm ")
    follow(found["dataset_files"])
    capsys.readouterr()
    assert doctor("dataset", there)[0] == 0

    (folder / "manifest.json").write_text("{")
    status, found = doctor("dataset", there)
    assert (status, found["faults"]) == (1, "dataset")
    follow(found["dataset"])
    capsys.readouterr()
    assert doctor("dataset", there)[0] == 0
