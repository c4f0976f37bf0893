"""Compares a run's folder with what the run wrote down: ledger, run.json, results.tsv, git.

Each check returns a line for each difference, which names the file and the remedy, or no line. A check that cannot be
made returns why, as a text.
"""

import itertools
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from autoresearch_jax.engine.database import connect_to_read, hash_file, hash_line, page_faults
from autoresearch_jax.engine.git import Git, GitError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import results_text
from autoresearch_jax.engine.records import ExperimentRow
from autoresearch_jax.engine.run_folder import RunFolder, settings_text
from autoresearch_jax.types import Metric

RESTORE = "restore it from a copy"
REWRITTEN = "`autoresearch run` with its --tag writes it again"


def ledger_file_differences(path: Path) -> list[str] | str:
    """Compares the ledger's bytes with the hash that was written when it was closed."""
    written = hash_file(path)
    if not written.exists():
        return "no hash: a driver was killed, or another process had the ledger open"
    try:
        if written.read_bytes() == hash_line(path).encode():
            return []
    except OSError as error:  # it is a folder
        return [f"{error.filename}: {error.strerror}: {RESTORE}"]
    return [f"{path}: not the bytes that {written.name} was made of: {RESTORE}, both of them"]


def ledger_page_differences(path: Path) -> list[str]:
    """What SQLite finds wrong with the ledger's pages, indexes and types."""
    try:
        with closing(connect_to_read(path)) as connection:
            return [f"{path}: SQLite says {fault}: {RESTORE}" for fault in page_faults(connection)]
    except sqlite3.Error as error:
        return [f"{path}: SQLite cannot read it: {error}: {RESTORE}"]


def settings_differences(folder: RunFolder, ledger: Ledger) -> list[str]:
    """Compares run.json with the settings in the ledger."""
    expected = settings_text(ledger.settings())
    return _text_differences(folder.settings, expected, "the ledger's settings: one of the two was changed")


def results_differences(folder: RunFolder, ledger: Ledger, metric: Metric) -> list[str]:
    """Compares results.tsv with what the ledger would write now."""
    return _text_differences(folder.results, results_text(ledger, metric), f"what the ledger would write: {REWRITTEN}")


def workspace_differences(folder: RunFolder, ledger: Ledger, champion: ExperimentRow) -> list[str] | str:
    """Compares the worktree's editable file with the champion's source."""
    path = folder.workspace / str(ledger.settings()["editable"])
    if not folder.workspace.exists():
        return "no worktree here"
    return _text_differences(path, ledger.source(champion.id), f"the champion's source: {REWRITTEN}")


def parents_differences(path: Path, ledger: Ledger) -> list[str]:
    """Compares what each trial was made from with what its experiment is made from, or was before it was moved."""
    parents = {row.id: {row.parent} for row in ledger.experiments()}
    differences = []
    for move in ledger.select("moves", ("id", "experiment", "parent"), "ORDER BY id"):
        if {move["experiment"], move["parent"]} <= parents.keys():
            parents[move["experiment"]].add(move["parent"])
        else:
            differences.append(f"{path}: move {move['id']} names an experiment that is not there: {RESTORE}")
    for trial in ledger.trials():
        if trial.parent not in parents.get(trial.experiment, ()):
            words = f"trial {trial.id} is of experiment {trial.experiment} as made from {trial.parent}"
            differences.append(f"{path}: {words}, which it never was: {RESTORE}")
    return differences


def _text_differences(path: Path, expected: str, what: str) -> list[str]:
    try:
        found = path.read_bytes().split(b"\n")
    except OSError as error:
        return [f"{path}: {error.strerror}: it should be {what}"]
    wanted = expected.encode().split(b"\n")
    if found == wanted:
        return []
    pairs = itertools.zip_longest(found, wanted)
    line = next(number for number, (mine, theirs) in enumerate(pairs, start=1) if mine != theirs)
    return [f"{path}:{line}: is not {what}"]


def source_differences(folder: RunFolder, ledger: Ledger, environment: Mapping[str, str]) -> list[str] | str:
    """Compares each experiment's source with the commit that holds it."""
    rows = [row for row in ledger.experiments() if row.commit is not None]
    git = _repository(folder, rows, environment)
    if git is None:
        return "no repository of the run at hand"
    editable = ledger.settings()["editable"]
    differences = []
    for row in rows:
        try:
            committed = git.raw("cat-file", "blob", f"{row.commit}:{editable}")
        except GitError:
            differences.append(
                f"commit {row.commit} of experiment {row.id} is not in {git.folder}: fetch it from a copy"
            )
            continue
        if committed != ledger.source(row.id).encode():
            differences.append(
                f"commit {row.commit} does not hold the source of experiment {row.id} as the ledger has it"
            )
    return differences


def _repository(folder: RunFolder, rows: list[ExperimentRow], environment: Mapping[str, str]) -> Git | None:
    """A repository that knows the run's first commit: the worktree's, else one around the run's folder."""
    with suppress(GitError):  # git is not installed
        for place in (folder.workspace, folder.path):
            git = Git(place.resolve(), environment)
            if rows and place.is_dir() and git.succeeds("cat-file", "-e", f"{rows[0].commit}^{{commit}}"):
                return git
    return None
