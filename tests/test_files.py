"""Files appear whole, one process at a time holds a lock, and a disk's errors are told from a candidate's."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import SmallDisk, small_disk

from autoresearch_jax.files import (
    as_written,
    disk_error,
    disk_error_from_json,
    disk_error_of_storage,
    disk_error_of_trace,
    disk_error_to_json,
    exclusive_lock,
    plain_text,
    write_json,
    write_whole,
)

FULL = OSError(errno.ENOSPC, "No space left on device", "data")
STORAGE = "RESOURCE_EXHAUSTED: Failed to write \"s/0\": No space left on device [os_error_code='28']"
MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 12884901888 bytes"

# Saves a megabyte as a trial does, and prints what the driver would be told.
SAVER = """
import json, sys
from pathlib import Path
import jax.numpy as jnp
from autoresearch_jax.tasks.lm.snapshot import _save_arrays
from autoresearch_jax.tasks.lm.worker import failure
try:
    _save_arrays(Path(sys.argv[1]), {"a": jnp.arange(1000000.0) * 1.2345})
except Exception as error:
    print(json.dumps(failure(error)))
"""


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, megabytes=1) as disk:
        yield disk


def test_a_cause_is_found_however_deep() -> None:
    error = RuntimeError("no")
    error.__cause__ = ExceptionGroup("several", [ValueError(), FULL])
    assert disk_error(error) is FULL
    for other in (ValueError(STORAGE), FileNotFoundError(errno.ENOENT, "no file", "a"), OSError("no")):
        assert disk_error(other) is None, "words, and errors of no disk"


def test_words_count_where_only_files_are_written_but_not_those_of_a_device(tmp_path: Path) -> None:
    found = disk_error_of_storage(ValueError(STORAGE), tmp_path)
    assert found is not None
    assert (found.errno, found.filename) == (errno.ENOSPC, str(tmp_path))
    assert disk_error_of_storage(ValueError("UNKNOWN: [os_error_code='5']"), tmp_path).errno == errno.EIO
    assert disk_error_of_storage(ValueError(MEMORY), tmp_path) is None
    assert disk_error_of_storage(ValueError("[os_error_code='2']"), tmp_path) is None


def test_a_trace_is_believed_only_where_there_is_little_room(tmp_path: Path) -> None:
    words = "OSError: [Errno 28] No space left on device"
    assert disk_error_of_trace(words, tmp_path, 0) is None
    assert disk_error_of_trace(words, tmp_path, 2**60).errno == errno.ENOSPC
    assert disk_error_of_trace("ValueError: no", tmp_path, 2**60) is None


def test_it_reaches_the_driver_as_it_was(tmp_path: Path) -> None:
    told = disk_error_from_json(json.loads(json.dumps(disk_error_to_json(FULL))), tmp_path)
    assert (type(told), told.errno, told.filename) == (OSError, errno.ENOSPC, "data")
    assert disk_error_from_json(disk_error_to_json(OSError(errno.EIO, "no")), tmp_path).filename == str(tmp_path)


def test_what_orbax_says_of_a_full_disk_is_told_as_the_disk_s(disk: SmallDisk) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    result = disk.run([sys.executable, "-c", SAVER, "state"], env=environment)
    told = json.loads(result.stdout)
    assert told["event"] == "failed", result
    assert told["disk"]["errno"] == errno.ENOSPC
    assert told["disk"]["path"].endswith("state")


@pytest.mark.parametrize(
    "written", ["a\nb\n", "a\r\nb\r\n", "a\rb\r", "\ufeffa\r\nb\r\n", "\ufeff", "", "a", "é\x0c\u2028\n"]
)
def test_a_text_keeps_the_form_that_its_tools_gave_it(written):
    data = written.encode()
    text = plain_text(data)
    assert "\r" not in text
    assert not text.startswith("\ufeff")
    assert as_written(text, data) == data


def test_the_line_ends_that_most_lines_have_count():
    assert as_written("a\nb\nc\n", b"a\r\nb\nc\r\n") == b"a\r\nb\r\nc\r\n"
    assert as_written("a\nb\nc\n", b"a\r\nb\nc\n") == b"a\nb\nc\n"
