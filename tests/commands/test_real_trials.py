"""Runs and tries with real trials: a model on loopback, a text by hand, a full disk, texts of one program."""

import json
import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fakes import ScriptedProposer, Silent
from gemini_server import GeminiServer, Request, Step, answer
from ledgers import substance
from repositories import make_repository
from small_disk import small_disk

from autoresearch_jax.cli import main
from autoresearch_jax.commands.verify import verify
from autoresearch_jax.decide.rule import Action, GreedyRule
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.loop import Loop
from autoresearch_jax.engine.parts import Parts
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.executors.base import LocalExecutor
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.sandbox.sandbox import Sandbox
from autoresearch_jax.tasks.lm.config import LmTaskConfig
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Budget, Status

RATE = "LEARNING_RATE = 10.0"


@pytest.fixture
def flags(tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Flags of a run in a repository that is the present folder."""
    monkeypatch.chdir(tmp_path)
    return [*tiny_run, "--experiments=2"]


def model(request: Request) -> Step:
    """First a text that crashes while it is traced, then one that trains; for experiment 2 what was measured before."""
    if "# Experiment 1\n" in request.text:
        line = "    def logits(state, tokens):\n"
        crashing = answer([(line, line + "        jnp.no_such_function()\n")])
        return crashing if len(request.texts) == 1 else answer([(RATE, "LEARNING_RATE = 5.0")], effect=0.1)
    if len(request.texts) == 1:
        return answer([("UNUSED = 1", "UNUSED = 2")], hypothesis="changes nothing")
    return answer([("(1 - progress)", "(1 - progress**2)")], hypothesis="a later fall", category="schedule")


@pytest.mark.slow
def test_a_model_is_told_of_a_crash_and_its_run_is_replayed_to_the_digit(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with GeminiServer(model) as server:
        assert main(["run", "--tag=a", *flags, "--proposer=gemini", f"--gemini_base_url={server.url}"]) == 0
    crash = next(request for request in server.requests if len(request.texts) == 3)
    assert re.search(r"it cannot be measured: .*no_such_function", crash.last)
    assert '|   File "train_lib.py", line 20, in logits\n|     jnp.no_such_function()\n' in crash.last
    assert "trace.py" not in crash.last, "frames of the harness"
    assert str(tmp_path) not in crash.last
    ahead = next(request for request in server.requests if "# Experiment 2\n" in request.text)
    assert re.search(r'Being measured right now, .*:\n  - experiment 1 \("opt\w+", by gemini\): "', ahead.text)
    assert 'vocab_sizes on offer: "256, 320"' in ahead.text
    assert "champion's num_steps: 20" in ahead.text
    repeated = [request for request in server.requests if "# Experiment 2\n" in request.text][1]
    assert "it changes nothing: it is the champion's own program (experiment 0" in repeated.last
    ledger = Ledger.open_to_read(tmp_path / "runs/a/ledger.db")
    assert [row.hypothesis for row in ledger.experiments()[1:]] == [
        "a smaller step (expected: +0.1)",
        "a later fall (expected: -0.01)",
    ]
    assert all(row.score is not None for row in ledger.experiments())
    assert main(["run", "--tag=b", *flags, "--proposer=replay", "--replay=a"]) == 0
    assert substance(Ledger.open_to_read(tmp_path / "runs/b/ledger.db")) == substance(ledger)


HYPOTHESIS = "--hypothesis=a smaller step"


@pytest.mark.slow
def test_by_hand_a_text_is_traced_measured_and_decided_on(
    tiny_run: list[str],
    tiny_source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    editable = tmp_path / "train_lib.py"

    def call(*words: str) -> tuple[int, dict]:
        status = main([*words, "--format=json"])
        return status, json.loads(capsys.readouterr().out)

    editable.write_text(tiny_source.replace("LEARNING_RATE = 10.0", "LEARNING_RATE = 5.0"))
    status, found = call("try", "--tag=a", HYPOTHESIS, *tiny_run)
    assert status == (0 if found["outcome"] == "keep" else 3)
    assert found["experiment"] == 1
    assert found["score"] is not None

    editable.write_text(editable.read_text().replace("LEARNING_RATE = 5.0", "LEARNING_RATE = 5.0  # with a comment"))
    status, found = call("try", "--tag=a", HYPOTHESIS, "--as_is")
    assert (status, found["outcome"]) == (3, "duplicate")

    line = "    def logits(state, tokens):\n"
    editable.write_text(tiny_source.replace(line, line + "        jnp.no_such_function()\n"))
    for command in (("check", "--tag=a"), ("try", "--tag=a", HYPOTHESIS)):
        status, found = call(*command)
        assert (status, found["outcome"]) == (4, "crash")
        assert "no_such_function" in found["reason"]
        assert '|   File "train_lib.py", line 20, in logits\n|     jnp.no_such_function()\n' in found["details"]
        assert str(tmp_path) not in found["details"]

    assert main(["try", "--tag=a", HYPOTHESIS]) == 4
    assert "\n|     jnp.no_such_function()\n" in capsys.readouterr().out

    editable.write_text(tiny_source.replace("(1 - progress)", "(1 - progress**2)"))
    status, found = call("check", "--tag=a")
    assert (status, found["outcome"], found["lines_added"]) == (0, "ok", 1)
    assert found["num_params"] > 0
    assert not list((tmp_path / "runs/a/logs").glob("0005*"))


MAIN = "import sys; from autoresearch_jax.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_snapshot_without_room_stops_the_run_and_leaves_its_trial_open(tiny_run: list[str], tmp_path: Path) -> None:
    run = [
        *(sys.executable, "-c", MAIN, "run", "--tag=q", *tiny_run),
        *("--experiments=1", "--min_free_gb=0", "--proposer=constants", "--platform=cpu"),
        *(f"--program={tmp_path / 'program.md'}", f"--editable={tmp_path / 'train_lib.py'}"),
        f"--run_dir={tmp_path / 'runs'}",
    ]
    snapshots = tmp_path / "runs" / "q" / "snapshots"
    snapshots.mkdir(parents=True)
    with small_disk(snapshots, megabytes=4) as disk:
        disk.fill(leave_bytes=300_000)  # as much as the state has, but not the programs besides
        ended = disk.run(run)
        assert ended.returncode == 1, ended
        line = ended.stderr.strip().splitlines()[-1]
        assert f"{snapshots}" in line, line
        assert "the disk is full" in line
        assert line.endswith("; the same command goes on from here")
        assert Ledger.open_to_read(tmp_path / "runs/q/ledger.db").open_trials()
        disk.make_room()
        assert list(disk.outside.iterdir()) == [], "nothing half-written is left"
        ended = disk.run(run)
        assert ended.returncode == 0, ended
    rows = Ledger.open_to_read(tmp_path / "runs/q/ledger.db").experiments()
    assert [row.status for row in rows] == ["ok", "ok"]


def replaced(source: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.slow
def test_texts_of_one_program_cost_nothing_and_the_shorter_one_is_kept(
    tiny_dataset: Dataset, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    constants = "LEARNING_RATE = 10.0  # of plain SGD\nVOCAB_SIZE = 256\n"
    texts = {
        "a comment": f"{tiny_source}\n# the end\n",
        "other names": replaced(
            tiny_source, ("table_VxV", "weights"), ("loss_fn", "criterion"), ('"count"', '"steps"')
        ),
        "another order": replaced(tiny_source, (constants, "".join(reversed(constants.splitlines(keepends=True))))),
        "another seed that nothing reads": replaced(tiny_source, ("UNUSED = 1 ", "UNUSED = 2 ")),
        "without it": replaced(tiny_source, ("UNUSED = 1  # read by nothing\n", "")),
        "as it was": tiny_source,
    }
    make_repository(tmp_path, tiny_source, "## Stop when\n\n- 100 experiments\n")
    folder = RunFolder(tmp_path / "runs" / "night")
    folder.create()
    config = LmTaskConfig(
        dataset=tiny_dataset,
        device=Device("cpu", "cpu", 1, None),
        mesh_axes={"data": 1, "model": 1},
        budget=Budget(steps=5),
        programs_dir=folder.path / "programs",
        sandbox=sandbox,
        environment=os.environ,
        trials_dirs=(folder.path / "logs", folder.path / "snapshots"),
    )

    def go_on() -> list[ExperimentRow]:
        with closing(LmTask(config)) as task, closing(Ledger.open(folder.ledger)) as ledger:
            parts = Parts(
                task=task,
                executor=LocalExecutor(task.measure),
                proposer=ScriptedProposer([Proposal(name, "text", source=source) for name, source in texts.items()]),
                precheck=Precheck(task, folder),
                rule=GreedyRule(task.metric),
                ledger=ledger,
                workspace=Workspace.of(tmp_path / "train_lib.py", "night", folder.workspace, os.environ),
                folder=folder,
                program=ProgramFile(tmp_path / "program.md"),
                observer=Silent(),
                interrupts=Interrupts(),
                disk=DiskGuard(folder, 0),
            )
            assert Loop(parts, run_seed=0).run() == "the script is over"
            return ledger.experiments()

    rows = go_on()[1:]
    assert [row.status for row in rows] == [Status.DUPLICATE] * len(texts), [row.reason for row in rows]
    assert [row.hypothesis for row in rows if row.decision is Action.KEEP] == ["without it"]
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        assert len(ledger.trials()) == 1, "trained once"
    assert (folder.workspace / "train_lib.py").read_text() == texts["without it"]
    report = verify(folder, None)
    assert report.differences == []
    assert (report.figures["experiment"], report.figures["measured_as"], report.figures["difference"]) == (5, 0, 0)

    # as if an older autoresearch had hashed them: the champion is traced again, and still equal
    with closing(sqlite3.connect(folder.ledger)) as connection:
        connection.execute("UPDATE experiments SET program_hash = 'older'")
        connection.execute("UPDATE trials SET metrics = json_remove(metrics, '$.hashed_by')")
        connection.commit()
    texts["later"] = f"{texts['without it']}\n# later\n"
    (row,) = go_on()[len(texts) :]
    assert (row.status, row.decision, row.program_hash) == (Status.DUPLICATE, Action.DISCARD, "older"), row.reason
