"""The ledger of a run: everything that was tried, in one SQLite file, written before it is spent on."""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UserError
from autoresearch_jax.measurement import Measurement, Scalar, Status
from autoresearch_jax.search.constants import read_constants
from autoresearch_jax.search.records import (
    Conclusion,
    ExperimentRow,
    Intent,
    Kind,
    TrialRow,
    Verdict,
)
from autoresearch_jax.search.schema import ALL_SEALED_VERSION, MIGRATIONS, SCHEMA_VERSION, SEALED_TABLES
from autoresearch_jax.search.seals import DIGEST, SEALED_LATER, row_digest, seal_of, seal_text

Clock = Callable[[], float]  # seconds since 1970

BUSY_SECONDS = 30.0  # how long to wait for another process, such as `autoresearch trial`, to finish its write

_EXPERIMENT = """SELECT id, kind, parent, parent_commit, proposer, hypothesis, category, cost_dollars,
    constants, created_at, program_hash, status, score, decision, reason, commit_id, seconds FROM experiments"""
_TRIAL = """SELECT id, experiment, seed, started_at, finished_at, status, value, metrics, snapshot, error
    FROM trials"""


class LedgerError(UserError):
    """The ledger cannot be read or written; the message names the file."""


class Ledger:
    """Experiments and their trials. Only times and durations differ between two equal runs."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock = time.time, seal: Path | None = None) -> None:
        """See `open` and `open_to_read`.

        Args:
          connection: to the file.
          clock: what rows are dated with.
          seal: the file to seal when it is closed; None for a ledger that is only read.
        """
        self._connection = connection
        self._clock = clock
        self._seal = seal

    @classmethod
    def open(cls, path: Path, clock: Clock = time.time) -> "Ledger":
        """Opens a ledger, makes it if there is none, and brings one of an older version to the present one.

        Raises:
          LedgerError: it is no ledger, of a newer version, or cannot be written.
        """
        with _named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = _connect(path)
            _check_version(connection, path, oldest=0)  # before anything of another version's is touched
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")  # a power cut takes nothing that was paid for
            seal_of(path).unlink(missing_ok=True)  # holds for a closed ledger only
            ledger = cls(connection, clock, seal=path)
            with ledger.transaction():
                before = _version(connection)
                for version in range(before, SCHEMA_VERSION):
                    for statement in MIGRATIONS[version].split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {version + 1}")
                if 0 < before < ALL_SEALED_VERSION:
                    ledger._seal_what_has_no_seal()
            _check_version(connection, path, oldest=SCHEMA_VERSION)
        return ledger

    @classmethod
    def open_to_read(cls, path: Path) -> "Ledger":
        """Opens an existing ledger without ever writing to it; a driver may be at work in it meanwhile.

        Raises:
          LedgerError: there is none, or it is of a newer version.
        """
        if not path.is_file():
            raise LedgerError(f"{path}: no ledger there; check --tag and --run_dir")
        with _named(path):
            connection = connect_to_read(path)
            _check_version(connection, path, oldest=1)
        return cls(connection)

    def close(self) -> None:
        """Closes the file, and seals it unless another process has it open and may go on writing."""
        self._connection.close()
        if self._seal is not None and not self._seal.with_name(self._seal.name + "-wal").exists():
            with suppress(OSError):  # a disk that is full: the ledger itself is written
                seal_of(self._seal).write_text(seal_text(self._seal), encoding="utf-8")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside is written together or not at all; transactions nest."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def settings(self) -> dict[str, Scalar]:
        """What `save_settings` saved, in that order; empty before."""
        rows = self._connection.execute("SELECT name, value FROM settings ORDER BY rowid")
        return {name: json.loads(value) for name, value in rows if name not in (DIGEST, SEALED_LATER)}

    def save_settings(self, settings: Mapping[str, Scalar]) -> None:
        """Stores what must stay the same for as long as the run lives, and seals it."""
        statement = "INSERT OR REPLACE INTO settings VALUES (?, ?)"
        with self.transaction():
            self._connection.executemany(statement, [(name, json.dumps(value)) for name, value in settings.items()])
            digest = row_digest(dict(self._connection.execute("SELECT name, value FROM settings")))
            self._connection.execute(statement, (DIGEST, digest))

    def begin_experiment(self, intent: Intent) -> ExperimentRow:
        """Writes down what is about to be tried and gives it the next number."""
        with self.transaction():
            (number,) = self._connection.execute("SELECT coalesce(max(id) + 1, 0) FROM experiments").fetchone()
            self._connection.execute(
                """INSERT INTO experiments (id, kind, parent, parent_commit, proposer, hypothesis,
                       category, cost_dollars, constants, created_at, source)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    number,
                    intent.kind,
                    intent.parent,
                    intent.parent_commit,
                    intent.proposer,
                    intent.hypothesis,
                    intent.category,
                    intent.cost_dollars,
                    json.dumps(intent.constants, sort_keys=True),
                    self._clock(),
                    intent.source,
                ),
            )
        return self.experiment(number)

    def set_program(self, experiment: int, program_hash: str) -> None:
        """Stores what the experiment's source was traced to."""
        with self.transaction():
            self._connection.execute("UPDATE experiments SET program_hash = ? WHERE id = ?", (program_hash, experiment))

    def begin_trial(self, experiment: int, seed: int) -> TrialRow:
        """Writes down that a budget is about to be spent."""
        with self.transaction():
            number = self._connection.execute(
                "INSERT INTO trials (experiment, seed, started_at) VALUES (?, ?, ?)",
                (experiment, seed, self._clock()),
            ).lastrowid
        return _trial(self._connection.execute(f"{_TRIAL} WHERE id = ?", (number,)).fetchone())

    def finish_trial(self, trial: int, measurement: Measurement) -> None:
        """Stores what a trial gave."""
        with self.transaction():
            self._connection.execute(
                """UPDATE trials SET finished_at = ?, status = ?, value = ?, metrics = ?, snapshot = ?,
                       error = ? WHERE id = ? AND status IS NULL""",
                (
                    self._clock(),
                    measurement.status,
                    measurement.value,
                    json.dumps(_finite(measurement.metrics), sort_keys=True),
                    None if measurement.snapshot is None else str(measurement.snapshot),
                    measurement.error,
                    trial,
                ),
            )
            self._seal_row("trials", trial)

    def conclude(self, experiment: int, conclusion: Conclusion) -> ExperimentRow:
        """Ends an experiment; returns it as it now stands."""
        with self.transaction():
            self._connection.execute(
                """UPDATE experiments SET status = ?, score = ?, decision = ?, reason = ?, commit_id = ?,
                       seconds = ? WHERE id = ? AND status IS NULL""",
                (
                    conclusion.status,
                    conclusion.score,
                    conclusion.decision,
                    conclusion.reason,
                    conclusion.commit,
                    conclusion.seconds,
                    experiment,
                ),
            )
            self._seal_row("experiments", experiment)
        return self.experiment(experiment)

    def _seal_row(self, table: str, number: int) -> None:
        """Stores the digest of a row that will not change any more."""
        cursor = self._connection.execute(f"SELECT * FROM {table} WHERE id = ? AND digest IS NULL", (number,))
        for values in cursor.fetchall():
            names = [column[0] for column in cursor.description]
            digest = row_digest(dict(zip(names, values, strict=True)))
            self._connection.execute(f"UPDATE {table} SET digest = ? WHERE id = ?", (digest, number))

    def _seal_what_has_no_seal(self) -> None:
        """Seals the settings, and the rows that were concluded before there were seals; writes down how many."""
        changes = self._connection.total_changes
        for table in SEALED_TABLES:
            where = f"WHERE digest IS NULL AND {table.concluded} IS NOT NULL"
            for (number,) in self._connection.execute(f"SELECT id FROM {table.name} {where}").fetchall():
                self._seal_row(table.name, number)
        if count := self._connection.total_changes - changes:
            self.save_settings({SEALED_LATER: count})
        elif self.settings():
            self.save_settings({})

    def record_trial(self, source: str, measurement: Measurement, description: str, fingerprint: str) -> int:
        """Adds one measurement that was made by hand, outside any search.

        Args:
          source: what was measured, as it was measured.
          measurement: what it gave.
          description: one line, such as "DEPTH=6".
          fingerprint: the task's; scores of other tasks are never compared with it.

        Returns:
          The experiment's number.
        """
        try:
            constants = read_constants(source)
        except SyntaxError:
            constants = {}
        with self.transaction():
            experiment = self.begin_experiment(
                Intent(Kind.TRIAL, source, constants, description, category=fingerprint, proposer="hand")
            )
            trial = self.begin_trial(experiment.id, measurement.seed)
            self.finish_trial(trial.id, measurement)
            seconds = measurement.metrics.get("total_seconds")
            self.conclude(
                experiment.id,
                Conclusion(
                    status=measurement.status,
                    score=measurement.value,
                    decision=None,
                    reason=measurement.error or "measured by hand",
                    commit=None,
                    seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
                ),
            )
        return experiment.id

    def begin_session(self) -> int:
        """Writes down that a process begins to work on the run; returns the session's number."""
        with self.transaction():
            number = self._connection.execute("INSERT INTO sessions (began_at) VALUES (?)", (self._clock(),)).lastrowid
        assert number is not None
        return number

    def end_session(self, session: int, reason: str) -> None:
        """Stores in one line why a process ends its work on the run."""
        with self.transaction():
            values = (self._clock(), reason, session)
            self._connection.execute("UPDATE sessions SET ended_at = ?, reason = ? WHERE id = ?", values)
            self._seal_row("sessions", session)

    def last_ending(self) -> str | None:
        """Why the last process ended; "killed" if it could not say, or is at work; None if nobody kept account."""
        if _version(self._connection) < 2:  # which had no table of them
            return None
        row = self._connection.execute("SELECT reason FROM sessions ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else row[0] or "killed"

    def experiment(self, number: int) -> ExperimentRow:
        """One experiment.

        Raises:
          LedgerError: there is none of that number.
        """
        row = self._connection.execute(f"{_EXPERIMENT} WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise LedgerError(f"the ledger has no experiment {number}")
        return _experiment(row)

    def experiments(self) -> list[ExperimentRow]:
        """All experiments in the order of their numbers."""
        return [_experiment(row) for row in self._connection.execute(f"{_EXPERIMENT} ORDER BY id")]

    def open_experiment(self) -> ExperimentRow | None:
        """The experiment of the search that is not over, if there is one."""
        row = self._connection.execute(f"{_EXPERIMENT} WHERE status IS NULL ORDER BY id LIMIT 1").fetchone()
        return None if row is None else _experiment(row)

    def scored_twin(self, program_hash: str, before: int) -> ExperimentRow | None:
        """The first experiment of the search, before number `before`, that measured the same program."""
        row = self._connection.execute(
            f"""{_EXPERIMENT} WHERE program_hash = ? AND id < ? AND status = 'ok' AND kind != 'trial'
                ORDER BY id LIMIT 1""",
            (program_hash, before),
        ).fetchone()
        return None if row is None else _experiment(row)

    def measured(self, row: ExperimentRow) -> ExperimentRow:
        """The experiment whose trials gave the score of `row`: itself, or the twin of a duplicate."""
        if row.status is not Status.DUPLICATE or row.program_hash is None:
            return row
        return self.scored_twin(row.program_hash, before=row.id) or row

    def source(self, experiment: int) -> str:
        """Full text that the experiment measured."""
        (source,) = self._connection.execute("SELECT source FROM experiments WHERE id = ?", (experiment,)).fetchone()
        return str(source)

    def trials(self, experiment: int | None = None) -> list[TrialRow]:
        """Trials of one experiment, or all, in the order of their numbers."""
        where, values = ("", ()) if experiment is None else ("WHERE experiment = ?", (experiment,))
        return [_trial(row) for row in self._connection.execute(f"{_TRIAL} {where} ORDER BY id", values)]

    def peak_memory_bytes(self) -> dict[int, float]:
        """Largest peak memory of each experiment's trials, where it is known."""
        rows = self._connection.execute(
            """SELECT experiment, max(json_extract(metrics, '$.peak_memory_bytes')) AS peak FROM trials
               GROUP BY experiment HAVING peak IS NOT NULL"""
        )
        return dict(rows.fetchall())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns SQLite's complaints into one line that names the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"{path}: the ledger cannot be opened: {error}") from error


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, not even beside the file, where the folder cannot be written to."""
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():  # whose rows are not in the file yet
            raise
        # with a write-ahead log SQLite wants a file of its own beside it, unless nobody ever writes
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switches to a write-ahead log; where two make a ledger at once, SQLite does not wait for its lock by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _check_version(connection: sqlite3.Connection, path: Path, *, oldest: int) -> None:
    version = _version(connection)
    if not oldest <= version <= SCHEMA_VERSION:
        raise LedgerError(
            f"{path}: the ledger has version {version} and this autoresearch reads {SCHEMA_VERSION}: "
            "use the autoresearch that made it, or another --tag"
        )


def _finite(metrics: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The metrics with null for NaN and infinity, which are no JSON: SQLite would refuse to read any of it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }


def _experiment(row: tuple[Any, ...]) -> ExperimentRow:
    values = list(row)
    values[1] = Kind(values[1])
    values[8] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(values[8]).items()
    }
    values[11] = None if values[11] is None else Status(values[11])
    values[13] = None if values[13] is None else Verdict(values[13])
    return ExperimentRow(*values)


def _trial(row: tuple[Any, ...]) -> TrialRow:
    values = list(row)
    values[5] = None if values[5] is None else Status(values[5])
    values[7] = json.loads(values[7] or "{}")
    values[8] = None if values[8] is None else Path(values[8])
    return TrialRow(*values)
