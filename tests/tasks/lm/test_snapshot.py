"""What a snapshot's manifest says of its files, and which formats are read."""

import json
from pathlib import Path

import pytest

from autoresearch_jax.tasks.lm.inventory import take_inventory
from autoresearch_jax.tasks.lm.snapshot import SnapshotError, load_manifest, snapshot_differences

FACTS = {"platform": "cpu", "mesh": {"data": 1, "model": 1}}


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    (folder / "state" / "d").mkdir(parents=True)
    (folder / "state" / "d" / "array").write_bytes(b"numbers")
    (folder / "tokenizer.json").write_text("[]")
    files = {name: vars(entry) for name, entry in take_inventory(folder).items()}
    (folder / "manifest.json").write_text(json.dumps({**FACTS, "format_version": 2, "files": files}))
    return folder


def differences(folder: Path) -> list[str]:
    found = snapshot_differences(folder, load_manifest(folder))
    assert found is not None
    return [line.removeprefix(f"{folder}/") for line in found]


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


def test_the_first_format_is_read_and_lists_nothing(snapshot: Path) -> None:
    (snapshot / "manifest.json").write_text(json.dumps({**FACTS, "format_version": 1}))
    assert snapshot_differences(snapshot, load_manifest(snapshot)) is None


def test_a_newer_format_and_a_damaged_list_are_refused(snapshot: Path) -> None:
    (snapshot / "manifest.json").write_text(json.dumps({**FACTS, "format_version": 3}))
    with pytest.raises(SnapshotError, match=r"snapshot: format 3, this version reads 1 to 2"):
        load_manifest(snapshot)
    for files in (None, {"a": {"size": 1}}, ["a"], {"a": 1}):
        manifest = {**FACTS, "format_version": 2, "files": files}
        with pytest.raises(SnapshotError, match=r"manifest.json: damaged: the list of files"):
            snapshot_differences(snapshot, manifest)
