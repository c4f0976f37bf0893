"""Paths that users name or leave out: `~` in every flag, no home, one folder for all caches."""

import os
import pwd
import tempfile
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from absl import flags

from autoresearch_jax.cli import COMMANDS, command_module
from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.options import define_options, describe_options, read_options
from autoresearch_jax.commands.paths import default_cache_dir, home_folder
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.errors import UsageError

TEXTS = {"run_dir", "compile_cache", "snapshot_dir", "replay", "snapshot", "from"}  # beside the flags of type Path


def read(options_type: type, *words: str) -> Any:
    values = flags.FlagValues()
    define_options(values, options_type)
    values(["test", *words])
    return read_options(values, options_type)


def paths(options_type: Any) -> Iterator[str]:
    """Flags of type Path."""
    hints = typing.get_type_hints(options_type)
    for field in fields(options_type):
        if is_dataclass(hints[field.name]):
            yield from paths(hints[field.name])
        elif hints[field.name] in (Path, Path | None):
            yield field.name


def path_flags() -> list[tuple[str, str]]:
    """Each command with each of its flags that name a path."""
    found = []
    for command in COMMANDS:
        options_type = command_module(command).Options
        texts = TEXTS & {name for name, _, _ in describe_options(options_type)}
        found += [(command, name) for name in sorted({*paths(options_type), *texts})]
    return found


def test_a_tilde_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/some/home")
    for command, flag in path_flags():
        options_type = command_module(command).Options
        assert "/some/home/x" in repr(read(options_type, f"--{flag}=~/x")), (command, flag)
        assert "~" not in repr(read(options_type, f"--{flag}=~/x"))
        with pytest.raises(UsageError, match=rf"^--{flag}=~no-such-user/x: there is no home of that user: give the wh"):
            read(options_type, f"--{flag}=~no-such-user/x")
        assert "'a/~x'" in repr(read(options_type, f"--{flag}=a/~x"))


@pytest.fixture(params=["HOME is unset, the user has no name", "HOME is /", "HOME is empty", "HOME is relative"])
def no_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, where there is no home."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words = request.param.split()
    if "unset," in words:

        def unknown(uid: int) -> pwd.struct_passwd:
            raise KeyError(uid)

        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", unknown)
    else:
        monkeypatch.setenv("HOME", {"/": "/", "empty": "", "relative": "home"}[words[-1]])
    return tmp_path


def test_without_a_home_caches_go_to_a_folder_of_ones_own(no_home: Path) -> None:
    own = no_home / f"autoresearch_jax-{os.getuid()}"
    assert home_folder() is None
    options = read(TaskOptions)
    assert options.dataset.datasets == own / "data"
    assert options.compile_cache_dir == own / "compiled"
    assert options.dataset.downloads == own / "huggingface"
    assert own.stat().st_mode & 0o777 == 0o700
    assert default_cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/autoresearch_jax")
    assert default_cache_dir({"XDG_CACHE_HOME": "relative"}) == own
    named = read(TaskOptions, "--cache_dir=c")
    assert named.dataset.datasets == Path.cwd() / "c/data"
    assert named.dataset.downloads == Path.cwd() / "c/huggingface"


@pytest.mark.parametrize("what", ["open to others", "a link", "a file", "no folder for it"])
def test_a_folder_that_others_can_write_to_is_no_cache(no_home: Path, what: str) -> None:
    own = no_home / f"autoresearch_jax-{os.getuid()}"
    if what == "open to others":
        own.mkdir()
        own.chmod(0o777)
    elif what == "a link":
        own.symlink_to(no_home)
    elif what == "a file":
        own.write_text("")
    else:
        no_home.rmdir()
    with pytest.raises(UsageError, match="name a folder with --cache_dir"):
        default_cache_dir({})


def test_with_a_home_caches_are_where_its_owner_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert read(DatasetOptions).datasets == tmp_path / ".cache/autoresearch_jax/data"
    assert read(DatasetOptions).downloads is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    options = read(TaskOptions)
    assert options.dataset.datasets == tmp_path / "xdg/autoresearch_jax/data"
    assert options.compile_cache_dir == tmp_path / "xdg/autoresearch_jax/compiled"
    assert read(TaskOptions, "--compile_cache=").compile_cache_dir is None
    options = read(TaskOptions, "--cache_dir=~/c", "--data_dir=d")
    assert (options.dataset.datasets, options.compile_cache_dir) == (Path.cwd() / "d", tmp_path / "c/compiled")
    assert options.dataset.downloads == tmp_path / "c/huggingface"
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert options.dataset.downloads is None
