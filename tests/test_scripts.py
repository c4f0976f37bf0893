"""The shell scripts in a folder with a stand-in for .venv: nothing is installed or trained."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoresearch_jax.executors.places import processor_cores

SCRIPTS = Path(__file__).parent.parent / "scripts"
FAILING_PIP = '#!/bin/sh\ncase "$*" in *install*) echo "no network" >&2; exit 1 ;; esac\n'
AUTORESEARCH = """#!/bin/sh
# {python}
echo "$@" >> calls
if [ "$1" = trial ] && [ -z "$REFUSED" ]; then echo "log:                 my runs/best/logs/trial-1-2"; fi
trap 'exit 130' INT
if [ "$1 $HANG" = "trial yes" ]; then touch hanging; sleep 30 & wait; fi
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a space in its path, a .venv in which pip fails, and no Python that works elsewhere."""
    folder = tmp_path / "a b"
    shutil.copytree(SCRIPTS, folder / "scripts")
    (folder / "setup.cfg").touch()
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, text in (("python", FAILING_PIP), ("autoresearch", AUTORESEARCH.format(python=commands / "python"))):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (folder / ".venv" / ".installed-base").touch()
    nothing = folder / "nothing"
    nothing.mkdir()
    for name in ("python", "python3", *(f"python3.{minor}" for minor in range(11, 15)), "uv"):
        (nothing / name).write_text("#!/bin/sh\nexit 1\n")
        (nothing / name).chmod(0o755)
    return folder


def script(checkout: Path, name: str, *words: str) -> tuple[int, str]:
    result = subprocess.run(
        [f"scripts/{name}", *words],
        cwd=checkout,
        env={
            "PATH": f"{checkout / 'nothing'}:{os.environ['PATH']}",
            "PYENV_ROOT": "/nowhere",
            "REFUSED": os.environ.get("REFUSED", ""),
        },
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stderr


def test_setup_does_nothing_when_all_is_in_place(checkout):
    assert script(checkout, "setup.sh") == (0, "")


def test_setup_keeps_an_environment_that_worked_when_pip_fails(checkout):
    status, said = script(checkout, "setup.sh", "dev")
    assert (status, said.splitlines()[1]) == (1, "no network")
    assert (checkout / ".venv" / "bin" / "autoresearch").exists()


@pytest.mark.parametrize("word", ["--help", "dev,ray"])
def test_setup_takes_names_of_extras_only(checkout, word):
    status, said = script(checkout, "setup.sh", word)
    assert (status, said.split()[0]) == (2, "usage:")
    assert (checkout / ".venv").exists()


def test_setup_is_not_content_with_the_environment_of_another_folder(checkout, tmp_path):
    shutil.copytree(checkout, tmp_path / "copy")
    assert script(tmp_path / "copy", "setup.sh")[0] == 1, "no Python to make another with"


def test_sweep_runs_the_grid_and_prints_the_table_of_where_it_went(checkout):
    status, said = script(checkout, "sweep.sh", "LR=-1e-3,2", "PATTERN=SL", "--", "--run_dir=/x y", "--seed=1")
    assert (status, said) == (0, "")
    assert (checkout / "calls").read_text().splitlines() == [
        "trial --run_dir=/x y --seed=1 --set LR=-1e-3 --set PATTERN=SL --tag=sweep",
        "trial --run_dir=/x y --seed=1 --set LR=2 --set PATTERN=SL --tag=sweep",
        "results --run_dir=my runs --tag=best",
    ]


def test_a_sweep_with_workers_keeps_each_place_busy_and_shows_every_trial(checkout):
    python = checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@" >> calls\necho env PLACE=0\necho env PLACE=1\n')
    together = 'touch "$PLACE"; until [ -e 0 ] && [ -e 1 ]; do sleep 0.01; done\n'
    trial = AUTORESEARCH.format(python=python).replace(
        "trap", f'[ "$1" != trial ] || {{ {together.strip()}; }}\ntrap', 1
    )
    (checkout / ".venv" / "bin" / "autoresearch").write_text(trial)
    result = subprocess.run(
        ["scripts/sweep.sh", "--workers=2", "LR=1,2,3", "--", "--seed=1"],
        cwd=checkout,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    calls = (checkout / "calls").read_text().splitlines()
    assert calls[0] == "scripts/sweep_places.py 2 --seed=1"
    assert sorted(calls[1:-1]) == [f"trial --seed=1 --set LR={rate} --tag=sweep" for rate in (1, 2, 3)]
    assert calls[-1] == "results --run_dir=my runs --tag=best"
    assert sorted(re.findall("sweep: (.) of 3", result.stdout)) == ["1", "2", "3"]
    assert result.stdout.count("log:") == 3


def test_places_of_a_sweep_share_no_core_and_are_no_more_than_there_are():
    def places(number: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPTS / "sweep_places.py"), number, "--platform=cpu"]
        return subprocess.run(command, capture_output=True, text=True)

    cores = len(processor_cores())
    lines = places(str(cores)).stdout.split("\n")[:-1]
    used = [cpu for line in lines for cpu in line.split()[-1].split(",")]
    assert (len(lines), len(used)) == (cores, len(set(used)))
    assert places("auto").stdout == "env\n"
    too_many = places(str(cores + 1))
    assert too_many.returncode == 2
    assert f"--workers={cores + 1}" in too_many.stderr


@pytest.mark.parametrize("tag", [("--tag=mine",), ("--tag", "mine")])
def test_a_sweep_has_its_own_tag_or_one_that_is_typed_and_not_that_of_a_flag_file(checkout, tag):
    flags = "--flagfile=configs/demo.flags"
    assert script(checkout, "sweep.sh", "LR=1", "--", flags) == (0, "")
    assert script(checkout, "sweep.sh", "LR=1", "--", *tag, flags) == (0, "")
    first, _, second, _ = (checkout / "calls").read_text().splitlines()
    assert first == f"trial {flags} --set LR=1 --tag=sweep"
    assert second == f"trial {' '.join(tag)} {flags} --set LR=1 {' '.join(tag)}"


def test_a_sweep_that_trained_nowhere_shows_no_table(checkout, monkeypatch):
    monkeypatch.setenv("REFUSED", "yes")
    assert script(checkout, "sweep.sh", "LR=1")[0] == 0
    assert [line.split()[0] for line in (checkout / "calls").read_text().splitlines()] == ["trial"]


def test_an_interrupt_ends_a_sweep_and_not_only_its_trial(checkout):
    process = subprocess.Popen(
        ["scripts/sweep.sh", "LR=1,2,3"],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "HANG": "yes"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (checkout / "hanging").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert len((checkout / "calls").read_text().splitlines()) == 1


@pytest.mark.parametrize("fails", ["nothing", "ruff", "lint-imports", "mypy", "python"])
def test_each_check_counts_beside_the_tests(checkout, fails):
    commands = checkout / ".venv" / "bin"
    for name in ("ruff", "lint-imports", "mypy", "python"):
        status = int(name == fails)
        (commands / name).write_text(f"#!/bin/sh\necho {name} $PYTEST_XDIST_AUTO_NUM_WORKERS >> calls\nexit {status}\n")
        (commands / name).chmod(0o755)
    (checkout / ".venv" / ".installed-dev").touch()
    (commands / "autoresearch").write_text(f"{commands / 'python'}\n")
    assert script(checkout, "test.sh", "-k", "some") == (int(fails != "nothing"), "")
    called = [line.split()[0] for line in (checkout / "calls").read_text().splitlines()]
    wanted = {"ruff": ["ruff"], "lint-imports": ["lint-imports", "python", "ruff", "ruff"]}
    assert sorted(called) == wanted.get(fails, ["lint-imports", "mypy", "python", "ruff", "ruff"])
