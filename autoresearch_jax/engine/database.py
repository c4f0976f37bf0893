"""A ledger's SQLite file: its tables, how it is opened, and its hash beside it while it is closed."""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from autoresearch_jax.engine.schema import SCHEMA, SCHEMA_VERSION
from autoresearch_jax.errors import UserError
from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.types import Scalar

Clock = Callable[[], float]  # seconds since 1970

BUSY_SECONDS = 30.0  # how long to wait for another process, such as `autoresearch trial`, to finish its write


class LedgerError(UserError):
    """The ledger cannot be read or written; the message names the file."""


class Database:
    """One SQLite file. While it is closed, a file beside it holds its SHA-256; see `hash_file`."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock = time.time, path: Path | None = None) -> None:
        """See `open` and `open_to_read`; `path` is None if the file is only read."""
        connection.row_factory = sqlite3.Row
        self._connection = connection
        self._path = path
        self.clock = clock
        self.slowest_commit_seconds = 0.0  # that the disk took for a transaction
        self._is_as_of_now = False  # inside of `as_of_now`

    @classmethod
    def open(cls, path: Path, clock: Clock = time.time) -> Self:
        """Opens a ledger, and makes it if there is none; rows are dated with `clock`.

        Raises:
          LedgerError: it is no ledger, of another version, or cannot be written.
        """
        with _named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            is_doubtful = _differs_from_hash(path)
            connection = _connect(path)
            try:
                if is_doubtful:
                    _check_pages(connection, path)
                _check_version(connection, path, may_be_new=True)  # before a ledger of another version is touched
                _write_ahead(connection)
            except sqlite3.OperationalError as error:
                # some network disks and buckets lack the memory that processes share, which a log needs
                if not error.sqlite_errorname.startswith(("SQLITE_IOERR_SHM", "SQLITE_PROTOCOL")):
                    raise
                connection.close()
                _give_up_write_ahead(path)
                connection = _connect(path)
                _check_version(connection, path, may_be_new=True)
            connection.execute("PRAGMA synchronous = FULL")  # a power cut takes nothing that was paid for
            hash_file(path).unlink(missing_ok=True)  # holds for a closed ledger only
            database = cls(connection, clock, path)
            with database.transaction():
                if _version(connection) == 0:
                    for statement in SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            _check_version(connection, path)
        return database

    @classmethod
    def open_to_read(cls, path: Path) -> Self:
        """Opens an existing ledger without ever writing to it; a driver may be at work in it meanwhile.

        Raises:
          LedgerError: there is none, or it is of another version.
        """
        if not path.is_file():
            raise LedgerError(f"{path}: no ledger there; check --tag and --run_dir")
        if path.stat().st_size == 0:
            raise LedgerError(f"{path}: is empty: restore it from a copy, or delete the run's folder")
        with _named(path):
            connection = connect_to_read(path)
            if _differs_from_hash(path):
                _check_pages(connection, path)
            _check_version(connection, path)
        return cls(connection)

    def close(self) -> None:
        """Closes the file, and writes its hash unless another process may go on writing to it.

        That another process has it open shows by the write-ahead log; without one there is no hash.
        """
        has_log = self._path is not None and _has_write_ahead(self._connection)
        self._connection.close()
        if self._path is not None and has_log and not self._path.with_name(f"{self._path.name}-wal").exists():
            with suppress(OSError):  # of a full disk: the ledger itself is written
                hash_file(self._path).write_text(hash_line(self._path), encoding="utf-8")

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
            if self._connection.in_transaction:  # on a full disk SQLite undoes it by itself
                self._connection.execute("ROLLBACK")
            raise
        begun = time.monotonic()
        self._connection.execute("COMMIT")
        self.slowest_commit_seconds = max(self.slowest_commit_seconds, time.monotonic() - begun)

    @contextmanager
    def as_of_now(self) -> Iterator[None]:
        """Inside, a ledger that is only read shows one state, while its driver goes on writing.

        Without a write-ahead log the driver would have to wait meanwhile; there, rows are those of the moment in which
        each is read.
        """
        if not _has_write_ahead(self._connection):
            yield
            return
        self._connection.execute("BEGIN")
        self._is_as_of_now = True
        try:
            yield
        finally:
            self._is_as_of_now = False
            if self._connection.in_transaction:  # an error of the disk ends it by itself
                self._connection.execute("ROLLBACK")

    def writes_seen(self) -> int:
        """A number that is another one once another process has written, and its rows can be read here.

        The file tells it too early: SQLite writes rows into its log, waits for the disk, and lets others see them then.
        """
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def version(self) -> tuple[int, int]:
        """Is another once anything was written, here or by another process; not of use within a transaction."""
        return self.writes_seen(), self._connection.total_changes

    def may_be_undone(self) -> bool:
        """True inside of a transaction that may write."""
        return self._connection.in_transaction and not self._is_as_of_now

    def insert(self, table: str, values: Mapping[str, Any]) -> int:
        """Adds a row in a transaction; returns its number."""
        marks = ", ".join("?" * len(values))
        with self.transaction():
            statement = f"INSERT INTO {table} ({_names(values)}) VALUES ({marks})"
            number = self._connection.execute(statement, tuple(values.values())).lastrowid
        assert number is not None
        return number

    def update(self, table: str, values: Mapping[str, Any], where: str, *parameters: Any) -> None:
        """Fills in columns of some rows in a transaction."""
        assignments = ", ".join(f"[{name}] = ?" for name in values)
        with self.transaction():
            statement = f"UPDATE {table} SET {assignments} WHERE {where}"
            self._connection.execute(statement, (*values.values(), *parameters))

    def next_ended(self, table: str) -> int:
        """What `ended` of the next row is that ends."""
        ((latest,),) = self.select(table, ("ended",), "ORDER BY ended DESC LIMIT 1") or ((0,),)
        return int(latest or 0) + 1

    def select(self, table: str, columns: Iterable[str], rest: str = "", *parameters: Any) -> list[sqlite3.Row]:
        """Some columns of the rows that the rest of the statement asks for."""
        return self._connection.execute(f"SELECT {_names(columns)} FROM {table} {rest}", parameters).fetchall()

    def settings(self) -> dict[str, Scalar]:
        """What `save_settings` saved, in that order; empty before."""
        return {name: json.loads(value) for name, value in self.select("settings", ("name", "value"), "ORDER BY rowid")}

    def save_settings(self, settings: Mapping[str, Scalar]) -> None:
        """Stores settings, in place of those of the same names."""
        with self.transaction():
            for name, value in settings.items():
                self._connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"[{name}]" for name in columns)  # SQLite takes an unknown name in quotes for a string


def metrics_json(metrics: Mapping[str, Scalar]) -> str:
    """Metrics as they are stored: NaN and infinity, which SQLite's JSON does not know, as null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
    return json.dumps(finite, sort_keys=True)


def hash_file(path: Path) -> Path:
    """Where the hash of a closed ledger is."""
    return path.with_name(f"{path.name}.sha256")


def hash_line(path: Path) -> str:
    """What `hash_file` says of a ledger as it is now; `sha256sum --check` reads it."""
    return f"{sha256_of_file(path)}  {path.name}\n"


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
        # with a write-ahead log SQLite writes a file beside it, unless the file is said never to change
        connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None)
    except UnicodeError as error:  # SQLite's message quotes a damaged name
        connection.close()
        raise sqlite3.DatabaseError(f"the names of its tables are damaged ({error})") from error
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into one line that names the file."""
    try:
        yield
    except (sqlite3.Error, UnicodeError, OSError) as error:
        hint = ""
        if "readonly" in str(error):
            hint = f": who may write to it, and to {path.name}-wal and {path.name}-shm beside it?"
        raise LedgerError(f"{path}: the ledger cannot be opened: {error}{hint}") from error


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _has_write_ahead(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switches to a write-ahead log; where two processes make a ledger at once, SQLite does not wait for its lock."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")  # finds out whether the log can be used
            connection.execute("ROLLBACK")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _give_up_write_ahead(path: Path) -> None:
    """Turns a ledger with a write-ahead log into one with a journal, with all that the log has."""
    connection = _connect(path)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # then SQLite needs no shared memory
        connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)  # is empty, and was the failure


def _differs_from_hash(path: Path) -> bool:
    """Whether a ledger was changed since it was closed; False where that is not known."""
    try:
        return hash_file(path).read_bytes() != hash_line(path).encode()
    except FileNotFoundError:  # a new one, or one that a process has open
        return False


def page_faults(connection: sqlite3.Connection, limit: int = 100) -> list[str]:
    """What SQLite finds wrong with a file, a line each."""
    try:
        found = [str(fault) for (fault,) in connection.execute(f"PRAGMA integrity_check({limit})")]
    except (sqlite3.Error, UnicodeError) as error:  # a damaged name of a table is no UTF-8
        found = [str(error)]
    return [" ".join(fault.split()) for fault in found if fault != "ok"]


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Refuses a damaged file: what is written to it could be lost, or spoil more of it."""
    if faults := page_faults(connection, limit=1):
        raise LedgerError(f"{path}: is damaged ({faults[0]}): restore it from a copy; `autoresearch verify` tells more")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _check_version(connection: sqlite3.Connection, path: Path, *, may_be_new: bool = False) -> None:
    version = _version(connection)
    if version != SCHEMA_VERSION and not (may_be_new and version == 0):
        raise LedgerError(
            f"{path}: the ledger has version {version} and this autoresearch reads {SCHEMA_VERSION}: "
            "use the autoresearch that made it, or another --tag"
        )
