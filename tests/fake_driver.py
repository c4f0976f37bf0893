"""A driver of a fake task as a process of its own, for tests that kill it: REPO EXPERIMENTS TRIAL_SECONDS."""

import os
import sys
from pathlib import Path

from fakes import FakeTask

from autoresearch_jax.commands.proposer_flags import ProposerOptions
from autoresearch_jax.commands.run import Options, run_loop
from autoresearch_jax.search.interrupts import Interrupts
from autoresearch_jax.search.ledger import Ledger
from autoresearch_jax.search.program_file import ProgramFile
from autoresearch_jax.search.run_folder import RunFolder
from autoresearch_jax.search.sequential import SequentialSettings
from autoresearch_jax.search.workspace import Workspace


def main() -> int:
    repo, experiments, trial_seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    folder = RunFolder(repo / "runs" / "night")
    options = Options(
        tag="night",
        folder=folder,
        proposer=ProposerOptions(),
        program=repo / "program.md",
        editable=repo / "train_lib.py",
        seed=0,
        max_experiments=experiments,
        decision=SequentialSettings(baseline_runs=4, max_runs=6),
    )
    folder.create()
    workspace = Workspace.of(options.editable, options.tag, folder.workspace, os.environ)
    with folder.lock(), Interrupts().installed() as interrupts:
        return run_loop(
            options,
            FakeTask(trial_seconds),
            workspace,
            folder,
            Ledger.open(folder.ledger),
            ProgramFile(options.program),
            interrupts,
        )


if __name__ == "__main__":
    sys.exit(main())
