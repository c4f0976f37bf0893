"""The loop on real programs: texts of one program are one candidate, the shortest is kept and verified as its twin."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fakes import ScriptedProposer, Silent
from repositories import make_repository

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
