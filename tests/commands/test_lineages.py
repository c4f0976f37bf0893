"""`autoresearch run --lineages`: drivers of a fake task as real processes, told to end, resumed, adopting."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import fakes
import pytest
from fakes import PROGRAM, SOURCE
from marked_processes import MARK, comes_true, marked_processes
from repositories import git, make_repository
from task_stand_in import stand_in

from autoresearch_jax.cli import main
from autoresearch_jax.commands.lineages import share_workers
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.places import Place, divide_devices

HOOK = """
from pathlib import Path
from fakes import FakeTask
from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.task_options import TaskOptions
from autoresearch_jax.engine import run_findings
from autoresearch_jax.findings import folder
DatasetOptions.open = lambda self: None
TaskOptions.make_task = lambda self, run_folder, editable, **how: FakeTask()
run_findings.ADOPT_EVERY = 2
folder.SHIPPED = Path("none")
"""
# An agent that knows in the first lineage alone what is best
AGENT = """
if grep -q -- --tag=night-1 BRIEF.md && ! grep -q 'DEPTH = 6' train_lib.py; then
    sed -i 's/^DEPTH = .*/DEPTH = 6/' train_lib.py
else
    echo "NOTE_$$ = 1" >> train_lib.py
fi
"""
FLAGS = ["--lineages=2", "--workers=2", "--platform=cpu", "--seed=7"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose page has no table."""
    (tmp_path / "agent.sh").write_text(AGENT)
    table = [line for line in PROGRAM.splitlines() if not line.startswith("|")]
    make_repository(tmp_path, SOURCE, "\n".join(table))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """Starts the command as a process; it and its drivers import what lets them work on a fake task."""
    (place / "hooks").mkdir()
    (place / "hooks" / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join([str(place / "hooks"), str(Path(fakes.__file__).parent), os.environ.get("PYTHONPATH", "")])
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "autoresearch_jax.cli", "run", "--tag=night", *flags],
                env={**os.environ, "PYTHONPATH": path, MARK: str(place)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    assert comes_true(lambda: marked_processes(str(place)) == []), "drivers end with their parent"


def over(place: Path, number: int) -> int:
    """How many experiments of a lineage are over."""
    table = place / f"runs/night-{number}/results.tsv"
    return len(table.read_text().splitlines()) - 1 if table.is_file() else 0


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two lineages need a core each")
def test_two_lineages_end_and_go_on_together_and_one_adopts_from_the_other(
    place: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(*FLAGS, "--experiments=500", f"--agent_command=sh {place}/agent.sh")
    given = place / "runs/night/findings"
    found = "DEPTH = 6"

    def have_both_begun() -> bool:
        is_given = any(found in page.read_text() for page in given.glob("*.json"))
        return first.poll() is not None or (is_given and min(over(place, 1), over(place, 2)) > 3)

    assert comes_true(have_both_begun, seconds=300)
    first.send_signal(signal.SIGINT)
    output, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert marked_processes(str(place)) == []
    assert sorted(re.findall(r"^(night-\d)  ended: +interrupted", output, re.MULTILINE)) == ["night-1", "night-2"]
    before = max(over(place, 1), over(place, 2))

    again = start(f"--experiments={before + 10}")  # with the flags that they had
    output, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    assert min(over(place, 1), over(place, 2)) > before + 10
    with closing(Ledger.open_to_read(place / "runs/night-2/ledger.db")) as ledger:
        adopted = [row for row in ledger.experiments() if row.finding is not None]
        assert all("(run night-1, experiment " in row.hypothesis for row in adopted), "not its own"
        assert "keep" in {row.decision for row in adopted}, errors
    assert found in git(place, "show", "autoresearch/night-2:train_lib.py")
    with closing(Ledger.open_to_read(place / "runs/night-1/ledger.db")) as ledger:
        assert ledger.settings()["seed"] == 7

    assert main(["status", "--tag=night", "--format=json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [run["tag"] for run in status["runs"]] == ["night-1", "night-2"]
    assert status["best"] in ("night-1", "night-2")
    assert status["findings"] == len(list(given.glob("*.md"))) > 0
    assert main(["results", "--tag=night"]) == 1
    assert "night-1, night-2" in capsys.readouterr().err
    assert main(["try", "--tag=night", "--hypothesis=a change"]) == 2
    assert "such as night-1" in capsys.readouterr().err
    assert main(["run", "--tag=night", "--lineages=3"]) == 2
    assert "--lineages=3 (the run has --lineages=2)" in capsys.readouterr().err


def test_workers_are_divided_and_what_cannot_be_is_refused_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = divide_devices(None, "cuda", 5, {})
    shares = share_workers(gpus, 2, "auto")
    assert [(share.place.variables, share.workers) for share in shares] == [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "2"),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, "2"),
    ]
    cores = share_workers([Place(0, frozenset({0, 1})), Place(1, frozenset({2, 3}))], 2, "2")
    assert [sorted(share.place.cpus) for share in cores] == [[0, 1], [2, 3]]
    chips = divide_devices(None, "tpu", 4, {})
    assert [share.place.variables["TPU_PROCESS_PORT"] for share in share_workers(chips, 4, "auto")] == [
        *("8476", "8477", "8478", "8479")
    ]
    with pytest.raises(UsageError, match=r"--lineages=2: .* 1 TPU chip, not 2: use --lineages=4"):
        share_workers(chips, 2, "auto")

    stand_in(monkeypatch, lambda options: fakes.FakeTask())
    run = ["run", "--tag=night", "--platform=cpu"]
    assert main([*run, "--lineages=2"]) == 2
    assert "--lineages=2: there is 1 worker" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"--lineages=6: there are 5 workers .*--workers=auto"):
        share_workers(gpus, 6, "auto")
    (place / "runs/night-1").mkdir(parents=True)
    (place / "runs/night-1/ledger.db").touch()
    assert main([*run, "--lineages=2"]) == 2
    assert "runs/night-1 is a run of its own" in capsys.readouterr().err
    (place / "runs/night/lineages.json").write_text("{")
    assert main(run) == 1
    assert "runs/night/lineages.json: cannot be read" in capsys.readouterr().err
    assert not (place / "runs/night/ledger.db").exists()
