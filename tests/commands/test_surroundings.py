"""Every command in surroundings that go wrong: it works, or says in one line what is in the way."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import PROGRAM, SOURCE
from nights import write_night
from repositories import make_repository

from autoresearch_jax.cli import COMMANDS
from autoresearch_jax.tasks.lm.data.dataset import Dataset

# Calls commands one after the other, a NUL on standard error between them; writes their statuses to a file.
SCRIPT = """
import json, os, pathlib, sys
from autoresearch_jax.cli import main
statuses = []
for words in json.loads(sys.argv[1]):
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    statuses.append(main(words))
    os.write(2, b"\\0")
pathlib.Path(sys.argv[2]).write_text(json.dumps(statuses))
"""
SECONDS = 300
PAGE = "## Goal\n\nLower it.\n\n## You may change\n\n|constant|values|\n|---|---|\n|LEARNING_RATE|1.0 .. 40.0|\n"


@dataclass(frozen=True)
class Surroundings:
    """Where a command runs.

    Attributes:
      variables: set to a value, or removed where that is None.
      output: a redirection of the shell; "|" for a pipe that nobody reads.
      folder: name of the repository's folder.
    """

    variables: Mapping[str, str | None] = field(default_factory=dict)
    output: str = ""
    folder: str = "repo"

    def run(self, words: list[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
        """Runs Python on some words."""
        environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
        environment |= {name: value for name, value in self.variables.items() if value is not None}
        for name in (name for name, value in self.variables.items() if value is None):
            environment.pop(name, None)
        is_pipe = self.output == "|"
        command = ["sh", "-c", f'exec "$@" {"" if is_pipe else self.output}', "sh", sys.executable, *words]
        reader, writer = os.pipe()
        os.close(reader)
        try:
            return subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=writer if is_pipe else subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=SECONDS,
                check=False,
            )
        finally:
            os.close(writer)


READ_ONLY = "/sys" if os.geteuid() == 0 else "/"  # what even root cannot write to
SURROUNDINGS = {
    "no home": Surroundings({"HOME": None}),
    "home is the root": Surroundings({"HOME": "/"}),
    "a home that can only be read": Surroundings({"HOME": READ_ONLY}),
    "POSIX": Surroundings({"LC_ALL": "POSIX", "PYTHONUTF8": "0"}),
    "output closed early": Surroundings(output="|"),
    "unbuffered output closed early": Surroundings({"PYTHONUNBUFFERED": "1"}, output="|"),
    "no output": Surroundings(output=">&-"),
    "output to a full disk": Surroundings(output=">/dev/full"),
    "a blank and an umlaut": Surroundings(folder="a b ü"),
    "a blank and an umlaut, POSIX": Surroundings({"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, folder="a b ü"),
    "odd characters": Surroundings(folder="#%41;,'\"$x&~"),
    "characters of patterns": Surroundings(folder="a[b]*c:d"),
    # several at once, since what goes wrong of each shows by itself
    "no home, a blank and an umlaut, POSIX": Surroundings(
        {"HOME": None, "LC_ALL": "POSIX", "PYTHONUTF8": "0"}, folder="a b ü"
    ),
    "a home that can only be read, characters of patterns, output closed early": Surroundings(
        {"HOME": READ_ONLY}, "|", "a[b]*c:d"
    ),
}


COMPUTES = [
    *("no home", "a home that can only be read", "POSIX", "output closed early", "output to a full disk"),
    *("a blank and an umlaut", "a blank and an umlaut, POSIX", "odd characters", "characters of patterns"),
]
LIKE_OTHERS = {
    *("home is the root", "unbuffered output closed early", "a blank and an umlaut, POSIX", "odd characters"),
    *("no home", "a home that can only be read", "a blank and an umlaut", "characters of patterns"),
    *("POSIX", "output closed early"),
}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_OTHERS)) for name in SURROUNDINGS])
def around(request: pytest.FixtureRequest) -> Surroundings:
    return SURROUNDINGS[request.param]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a made-up run."""
    return write_night(tmp_path_factory.mktemp("made") / "night", 12, hostile=True).path


@pytest.fixture
def repository(around: Surroundings, tmp_path: Path) -> Path:
    folder = tmp_path / around.folder
    folder.mkdir()
    return folder


def outcomes(around: Surroundings, repository: Path, lines: list[list[str]]) -> list[int]:
    """Exit statuses of commands that ran one after the other; the last line of one that failed says why."""
    statuses = repository.parent / "statuses"
    done = around.run(["-c", SCRIPT, json.dumps(lines), str(statuses)], repository)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in (done.stdout or b"") + done.stderr, done.stderr.decode(errors="replace")
    found = json.loads(statuses.read_text())
    for words, status, said in zip(lines, found, done.stderr.split(b"\0"), strict=False):
        if status != 0 and words[0] != "doctor":
            assert said.splitlines()[-1].startswith(f"autoresearch {words[0]}: ".encode()), words
    return found


def test_every_command_works_or_says_why_not_in_one_line(around: Surroundings, repository: Path, made: Path) -> None:
    make_repository(repository, SOURCE, PROGRAM.replace("loss", "val_bpb"))
    shutil.copytree(made, repository / "runs/night")
    cache = f"--cache_dir={repository.parent / 'cache'}"
    reads = [
        *(["status", "--tag=night"], ["results", "--tag=night"], ["report", "--tag=night", "--format=md"]),
        *(["run", "--help"], ["prepare", "--list", cache], ["findings", "list"], ["init"]),
        ["brief", "--tag=night"],
    ]
    others = [
        *(["trial", cache], ["run", "--tag=new", cache], ["audit", "--tag=night", cache], ["verify", "none"]),
        *(["sample", "--tag=night"], ["watch", "--tag=night", "--port=70000"], ["prepare", "--corpus=files:*.none"]),
        *(["check", "none.py"], ["try", "--tag=night"], ["mcp", "--run_flagfile=none"]),
        *(["host"], ["swarm"], ["adopt", "alice", "--tag=night"]),
        ["doctor", "--sections=jax,run"],
    ]
    assert {words[0] for words in reads + others} == set(COMMANDS)
    found = outcomes(around, repository, [*reads, *others])
    assert set(found[: len(reads)]) == {1 if around.output == ">/dev/full" else 0}
    assert 0 not in found[len(reads) : -1]


@pytest.mark.slow
@pytest.mark.parametrize("around", [SURROUNDINGS[name] for name in COMPUTES], ids=COMPUTES)
def test_every_command_that_computes(
    around: Surroundings, repository: Path, tiny_source: str, tiny_dataset: Dataset, sandbox_cache: Path
) -> None:
    make_repository(repository, tiny_source, PAGE)
    corpus, sizes = f"--corpus={tiny_dataset.manifest.corpus}", ("--sequence_length=32", "--vocab_sizes=256,320")
    flags = [corpus, *sizes, f"--data_dir={tiny_dataset.folder.parent}", f"--cache_dir={sandbox_cache}"]
    flags += ["--budget_steps=5", "--platform=cpu"]
    run = ["--tag=new", *flags, "--decision=greedy", "--baseline_runs=1", "--experiments=1", "--seed=0"]
    lines = [
        *(["prepare", corpus, *sizes, f"--cache_dir={repository / 'cache'}"], ["trial", *flags], ["run", *run]),
        *(["audit", "--tag=new", *flags, "--runs=2"], ["sample", "--tag=new", "--tokens=3"], ["verify", "new"]),
        ["doctor", *flags, "--sections=devices,clock,git,dataset"],
    ]
    found = outcomes(around, repository, lines)
    is_refused = around.folder.startswith("a[") or (around.folder != "repo" and "PYTHONUTF8" in around.variables)
    assert set(found[2:4]) == {1 if is_refused or around.output == ">/dev/full" else 0}
