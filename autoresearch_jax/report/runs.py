"""The runs of a folder at a glance: when each was at work last, how far it is, its champion, its state."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from autoresearch_jax.decide.rule import plus_minus
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.live import read_live
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.engine.run_folder import RunFolder, find_runs
from autoresearch_jax.errors import UserError
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_table
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Scalar

BY_HAND = "trials by hand"


@dataclass(frozen=True)
class RunLine:
    """A run, or trials by hand, in a list.

    Attributes:
      at: when something of it was written down last, in seconds since 1970; 0 where its ledger cannot be read.
      experiments: that are over, the baseline left out; of trials by hand all.
      champion: its score with its standard deviation.
      state: what its driver does, or how it ended.
    """

    tag: str
    folder: RunFolder
    at: float
    experiments: int | None
    champion: str | None
    state: str

    def row(self) -> dict[str, Scalar]:
        """As it is printed."""
        when = datetime.fromtimestamp(self.at).astimezone().isoformat(" ", "minutes") if self.at else None
        return {
            "tag": self.tag,
            "when": when,
            "experiments": self.experiments,
            "champion": self.champion,
            "state": self.state,
        }


def list_runs(run_dir: Path) -> list[RunLine]:
    """The runs of a folder, the latest last; one whose ledger cannot be read says so, and comes first."""
    return sorted(list_folders(find_runs(run_dir), run_dir), key=lambda line: (line.at, line.tag))


def list_folders(folders: Sequence[RunFolder], run_dir: Path) -> list[RunLine]:
    """A line for each run, in their order; `run_dir` is above all of them."""
    return [_line(folder, clean_line(folder.path.relative_to(run_dir).as_posix())) for folder in folders]


def latest_run(lines: Sequence[RunLine]) -> RunLine:
    """The last run of a list; trials by hand where it has no other."""
    return next((line for line in reversed(lines) if line.at and line.state != BY_HAND), lines[-1])


def format_runs(lines: Sequence[RunLine]) -> str:
    """A table of runs, and which of them is told of next."""
    return f"{format_table([line.row() for line in lines])}\n\nlatest: {latest_run(lines).tag}\n"


def runs_as_csv(lines: Sequence[RunLine]) -> tuple[Sequence[str], Sequence[Sequence[Scalar]]]:
    """The header and the rows of a table of runs."""
    rows = [line.row() for line in lines]
    return tuple(rows[0]), [tuple(row.values()) for row in rows]


def _line(folder: RunFolder, tag: str) -> RunLine:
    try:
        with closing(Ledger.open_to_read(folder.ledger)) as ledger, ledger.as_of_now():
            return _read_line(ledger, folder, tag)
    except (UserError, sqlite3.Error, ValueError, LookupError, TypeError) as error:
        return RunLine(tag, folder, 0.0, None, None, clean_line(f"cannot be read: {error}"))


def _read_line(ledger: Ledger, folder: RunFolder, tag: str) -> RunLine:
    rows, summary = ledger.experiments(), summarize_run(ledger)
    times = [row.created_at for row in rows]
    times += [time for trial in ledger.trials() for time in (trial.started_at, trial.finished_at) if time is not None]
    holder = folder.holder()
    live = None if holder is None else read_live(folder)
    if live is not None and live.waiting is not None:
        state = f"waits: {live.waiting.what}"
    elif holder is not None:
        several = "" if live is None or len(live.trials) < 2 else f", {len(live.trials)} trials"
        state = f"at work: {holder}{several}"
    elif not ledger.settings() and any(row.kind is Kind.TRIAL for row in rows):
        state = BY_HAND
    else:
        state = summary.ended or "not begun"
    count = len(rows) if state == BY_HAND else sum(summary.counts.values())
    score = summary.champion_score
    at = max(times, default=folder.last_write)
    return RunLine(tag, folder, at, count, None if score is None else plus_minus(score), clean_line(state))
