"""Prints text from a snapshot, so that a person sees what the model learnt.

autoresearch sample --tag=NAME --prompt='def '
autoresearch sample --tag=NAME --experiment=3
autoresearch sample --snapshot=runs/NAME/snapshots/0003-0004 --temperature=0
"""

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from autoresearch_jax.commands.folder_options import TrialFolderOptions
from autoresearch_jax.commands.machine_options import confines_snapshots, sandbox_option
from autoresearch_jax.commands.options import option
from autoresearch_jax.commands.paths import require_text
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.summary import named_experiment, summarize_run
from autoresearch_jax.snapshots.kept import KeptSnapshot, find_snapshot
from autoresearch_jax.tasks.lm.config import SAMPLE, SampleSettings
from autoresearch_jax.tasks.lm.data.dataset import MANIFEST
from autoresearch_jax.tasks.lm.integrity import SNAPSHOT_SHA256, snapshot_damage
from autoresearch_jax.tasks.lm.verification import ask_about_snapshot


@dataclass(frozen=True)
class Options:
    """What `autoresearch sample` was asked for."""

    where: TrialFolderOptions
    snapshot: str | None = option(None, "folder of a snapshot; default: --tag's champion", path=True)
    experiment: int | None = option(None, "sample this experiment instead of the champion", least=0)
    prompt: str = option("", "what the text begins with; empty begins a document")
    tokens: int = option(200, "tokens to add", least=1)
    temperature: float = option(0.8, "0 takes the likeliest token", least=0)
    top_k: int = option(50, "number of likeliest tokens to draw from; 0: all", least=0)
    seed: int = option(0, "seed of the draw", least=0)
    sandbox: str = sandbox_option()


def run(options: Options, arguments: list[str]) -> int:
    """Prints the text."""
    kept: KeptSnapshot | None
    if options.snapshot is None:
        kept = _kept_snapshot(options.where, options.experiment)
    elif not options.snapshot:
        raise UsageError("--snapshot is empty: name the folder of a snapshot")
    elif options.experiment is not None:
        raise UsageError("--snapshot and --experiment: name the snapshot once")
    else:
        kept = _snapshot_of_a_run(Path(options.snapshot))
    if kept is None:
        folder = Path(options.snapshot or "")
        if (folder / MANIFEST).is_file():
            require_undamaged(folder)
        print(_sample(folder, options))
        return 0
    with kept.folder() as folder:
        require_undamaged(folder, kept)
        print(_sample(folder, options))
    return 0


def require_undamaged(folder: Path, kept: KeptSnapshot | None = None) -> None:
    """Compares a snapshot with its hashes before it is used.

    Args:
      kept: its record in a ledger; None if it is in none.

    Raises:
      UserError: it is damaged; the message names the first file, and how to have the snapshot again.
    """
    sha256 = None if kept is None else kept.trial.metrics.get(SNAPSHOT_SHA256)
    damage = snapshot_damage(folder, None if sha256 is None else str(sha256))
    if damage:
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        raise UserError(f"{damage[0]}{more}{f', or {kept.remedy}' if kept is not None else ''}")


def _sample(snapshot: Path, options: Options) -> str:
    require_text(snapshot.absolute())
    settings = SampleSettings(options.prompt, options.tokens, options.temperature, options.top_k, options.seed)
    request = {"settings": asdict(settings)}
    confined = confines_snapshots(options.sandbox)
    return str(ask_about_snapshot(SAMPLE, snapshot, request, environment=os.environ, confined=confined)["text"])


def _kept_snapshot(where: TrialFolderOptions, experiment: int | None) -> KeptSnapshot:
    """The snapshot of an experiment; by default the champion's, or the newest of trials by hand."""
    folder = where.folder
    if not folder.ledger.exists() and (holder := folder.holder()):  # a driver that has just begun
        raise UserError(_none_yet(folder, holder))
    with closing(Ledger.open_to_read(where.existing.ledger)) as ledger:
        row = summarize_run(ledger).champion if experiment is None else named_experiment(ledger, folder, experiment)
        trials = ledger.trials() if row is None else ledger.runs(row)  # a champion's others may have expired
        there = [trial for trial in trials if trial.snapshot is not None and trial.value is not None]
        if there:
            return find_snapshot(ledger, folder, there[-1], as_recorded=True)
        if experiment is not None and row is not None:
            raise UserError(f"{folder.path}: experiment {row.id} has no snapshot ({row.status or 'not over yet'})")
        raise UserError(_none_yet(folder, folder.holder(), is_run=bool(ledger.settings())))


def _none_yet(folder: RunFolder, holder: str | None, *, is_run: bool = True) -> str:
    if holder is not None:
        return f"{folder.path}: no snapshot yet, but {holder} is at work on it: wait for the first, or name another run"
    begin = "`autoresearch run` with its --tag goes on" if is_run else "run `autoresearch trial`"
    return f"{folder.path}: no snapshot yet; {begin}, or name one with --snapshot"


def _snapshot_of_a_run(path: Path) -> KeptSnapshot | None:
    """The record of a snapshot in the ledger of the folder around it; None without one."""
    if path.parent.parent.name in ("", ".."):  # named from within its run
        path = path.absolute()
    folder = RunFolder(path.parent.parent)
    if path.parent != folder.snapshots or not folder.ledger.is_file():
        return None
    with suppress(LedgerError, sqlite3.Error), closing(Ledger.open_to_read(folder.ledger)) as ledger:
        trials = (trial for trial in ledger.trials() if trial.snapshot is not None and trial.snapshot.name == path.name)
        if (trial := next(trials, None)) is not None:
            return find_snapshot(ledger, folder, trial)
    return None
