"""Files appear whole, and one process at a time holds a lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_jax.files import exclusive_lock, free_bytes, write_json, write_whole


@pytest.mark.parametrize("content", ["text \u4e2d\r\n", b"\x00\xff"])
def test_the_content_is_replaced_and_nothing_is_left(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path, folder = tmp_path / "file", tmp_path / "folder"
    write_json(path, {"old": 1})
    folder.mkdir()
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    with pytest.raises(IsADirectoryError):
        write_whole(folder, "text")
    assert path.read_text() == '{\n "old": 1\n}\n'
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_lock_is_free_again_when_its_process_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import sys, pathlib; from autoresearch_jax.files import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1]), lambda: None): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waited = []

        def end_it() -> None:
            waited.append(True)
            holder.kill()

        with exclusive_lock(path, end_it):
            assert waited == [True]


def test_free_bytes_of_a_folder_that_is_to_come(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a/b") > 0
