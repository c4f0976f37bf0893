"""A run that is over, whose snapshots tests lose and damage."""

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from repositories import make_repository

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.summary import summarize_run

PAGE = "## You may change\n\n|constant|values|\n|---|---|\n|LEARNING_RATE|1.0 .. 30.0 log|\n"


@dataclass(frozen=True)
class Night:
    """A finished run, in a place of its own.

    Attributes:
      folder: the run's.
      flags: that it was started with, as far as they matter to a trial.
      others: all others.
      champion: number of its champion.
      other: number of another experiment that has a score.
    """

    folder: RunFolder
    flags: tuple[str, ...]
    others: tuple[str, ...]
    champion: int
    other: int

    @property
    def where(self) -> tuple[str, str]:
        return f"--run_dir={self.folder.path.parent}", f"--tag={self.folder.path.name}"

    @property
    def snapshots(self) -> Path:
        return self.folder.path / "snapshots"

    def ledger(self) -> closing[Ledger]:
        return closing(Ledger.open(self.folder.ledger))

    def trials(self, experiment: int) -> list[TrialRow]:
        """Those that count."""
        with self.ledger() as ledger:
            return ledger.runs(ledger.experiment(experiment))

    def snapshot(self, trial: TrialRow) -> Path:
        assert trial.snapshot is not None
        return self.folder.own_snapshot(trial.snapshot)

    def lose(self, experiment: int) -> None:
        for trial in self.trials(experiment):
            shutil.rmtree(self.snapshot(trial))

    def expire(self, experiment: int) -> None:
        with self.ledger() as ledger:
            ledger.expire_snapshots([trial.id for trial in self.trials(experiment)])
        self.lose(experiment)

    def damage(self, trial: TrialRow) -> Path:
        """Flips a byte of a trial's snapshot; returns the file."""
        path = max((path for path in self.snapshot(trial).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        return path

    def remedy(self, experiment: int) -> str:
        command = f"autoresearch trial --from={self.folder.path}:{experiment}"
        return f"train another like it: `{command}`"


def run_night(place: Path, flags: tuple[str, ...], source: str) -> Night:
    """Runs two experiments in an empty folder, each of which was run more than once or may have been."""
    make_repository(place, source, PAGE)
    where = [f"--run_dir={place}", "--tag=night"]
    own = [f"--editable={place / 'train_lib.py'}", f"--program={place / 'program.md'}"]
    others = (*own, "--baseline_runs=2", "--max_runs=2", "--experiments=1", "--seed=0", "--proposer=constants")
    assert main(["run", *where, *flags, *others]) == 0
    folder = RunFolder(place / "night")
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        champion = summarize_run(ledger).champion
    assert champion is not None
    return Night(folder, flags, others, champion.id, 1 - champion.id)
