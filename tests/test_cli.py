"""The command line: help, mistakes, flag files."""

import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_jax.cli import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"flags of `autoresearch {command}`" in out
    assert "(default: " in out


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("autoresearch: unknown command 'trian'; one of init, prepare, trial")


def test_flags_come_from_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flagfile = tmp_path / "a.flags"
    flagfile.write_text("# a comment\n--corpus=no_such_corpus\n")
    assert main(["prepare", f"--flagfile={flagfile}"]) == 2
    assert "no_such_corpus" in capsys.readouterr().err
    assert main(["prepare", "--flagfile=/nowhere.flags"]) == 2
    assert "--flagfile=/nowhere.flags: No such file" in capsys.readouterr().err
    flagfile.write_text("--flagfile=configs/nowhere.flags\n")
    assert main(["prepare", f"--flagfile={flagfile}"]) == 2
    assert "--flagfile=configs/nowhere.flags: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "remedy"),
    [(b"# gr\xf6\xdfer\n--tag=x\n", "save it as UTF-8, or set"), (b"\xef\xbb\xbf--tag=x\n", "byte-order mark")],
)
def test_a_flag_file_as_tools_write_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, remedy: str
) -> None:
    flagfile = tmp_path / "a.flags"
    flagfile.write_bytes(data)
    assert main(["status", f"--flagfile={flagfile}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("autoresearch status: --flagfile: ")
    assert remedy in said


@pytest.mark.parametrize("command", ["status", "results", "sample"])
@pytest.mark.parametrize("tag", ["../elsewhere", "/elsewhere", "a/../../b"])
def test_a_tag_stays_among_the_runs(command: str, tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, f"--tag={tag}"]) == 2
    assert f"--tag={tag}: a name, not a path" in capsys.readouterr().err


def test_the_driver_loads_no_jax() -> None:
    modules = ", ".join(f"autoresearch_jax.commands.{name}" for name in ("run", "trial", "status", "results"))
    code = f"import sys, {modules}; sys.exit('jax' in sys.modules or 'grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
