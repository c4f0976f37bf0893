"""A ledger's file: SQLite with sealed rows, its versions, and one line for what SQLite has against it."""

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from autoresearch_jax.engine.schema import SCHEMA, SCHEMA_VERSION
from autoresearch_jax.engine.seals import DIGEST, row_digest, seal_of, seal_text, seal_text_of
from autoresearch_jax.errors import UserError
from autoresearch_jax.types import Scalar

Clock = Callable[[], float]  # seconds since 1970

BUSY_SECONDS = 30.0  # how long to wait for another process, such as `autoresearch trial`, to finish its write


class LedgerError(UserError):
    """The ledger cannot be read or written; the message names the file."""


class Database:
    """One SQLite file with seals: a row gets its digest when it is concluded, the file its hash when it is closed."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock = time.time, seal: Path | None = None) -> None:
        """See `open` and `open_to_read`.

        Args:
          connection: to the file.
          clock: what rows are dated with.
          seal: the file to seal when it is closed; None for one that is only read.
        """
        self._connection = connection
        self._seal = seal
        self._has_log = seal is not None and connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        self.clock = clock
        self.slowest_commit_seconds = 0.0

    @classmethod
    def open(cls, path: Path, clock: Clock) -> "Database":
        """See `Ledger.open`."""
        with _named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            is_doubtful = _differs_from_seal(path)
            connection = _connect(path)
            try:
                if is_doubtful:
                    _check_pages(connection, path)
                _check_version(connection, path, may_be_new=True)  # before anything of another version's is touched
                _write_ahead(connection)
            except sqlite3.OperationalError as error:
                if not _lacks_shared_memory(error):
                    raise
                connection.close()
                _give_up_write_ahead(path)
                connection = _connect(path)
                _check_version(connection, path, may_be_new=True)
            connection.execute("PRAGMA synchronous = FULL")  # a power cut takes nothing that was paid for
            seal_of(path).unlink(missing_ok=True)  # holds for a closed ledger only
            database = cls(connection, clock, seal=path)
            with database.transaction():
                if _version(connection) == 0:
                    for statement in SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            _check_version(connection, path)
        return database

    @classmethod
    def open_to_read(cls, path: Path) -> "Database":
        """See `Ledger.open_to_read`."""
        if not path.is_file():
            raise LedgerError(f"{path}: no ledger there; check --tag and --run_dir")
        if path.stat().st_size == 0:
            raise LedgerError(f"{path}: is empty: restore it from a copy, or delete the run's folder")
        with _named(path):
            connection = connect_to_read(path)
            if _differs_from_seal(path):
                _check_pages(connection, path)
            _check_version(connection, path)
        return cls(connection)

    def close(self) -> None:
        """Closes the file, and seals it unless another process has it open and may go on writing.

        That is told by the write-ahead log. Where there is none, whoever goes on writing removes the seal first.
        """
        if self._seal is not None and not self._has_log:
            self._seal_and_close(self._seal)
            return
        self._connection.close()
        if self._seal is not None and not self._seal.with_name(self._seal.name + "-wal").exists():
            with suppress(OSError):  # a disk that is full: the ledger itself is written
                seal_of(self._seal).write_text(seal_text(self._seal), encoding="utf-8")

    def _seal_and_close(self, path: Path) -> None:
        """Seals the file while nobody can write to it; not at all if somebody does."""
        with ExitStack() as stack:
            with suppress(OSError, sqlite3.Error):
                # Closed after the connection, whose locks would end with the first time that this process closes it:
                # https://www.sqlite.org/howtocorrupt.html
                file = stack.enter_context(path.open("rb"))
                self._connection.execute("BEGIN IMMEDIATE")
                seal_of(path).write_text(seal_text_of(file, path.name), encoding="utf-8")
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside is written together or not at all; transactions nest."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if self._seal is not None and not self._has_log:
                seal_of(self._seal).unlink(missing_ok=True)  # of another process that closed it, see `close`
            yield
        except BaseException:
            if self._connection.in_transaction:  # a disk that is full has SQLite undo it by itself
                self._connection.execute("ROLLBACK")
            raise
        begun = time.monotonic()
        self._connection.execute("COMMIT")
        self.slowest_commit_seconds = max(self.slowest_commit_seconds, time.monotonic() - begun)

    @property
    def in_transaction(self) -> bool:
        """True while what was written may yet be undone."""
        return self._connection.in_transaction

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Runs one statement."""
        return self._connection.execute(statement, values)

    def insert(self, table: str, values: Mapping[str, Any]) -> int:
        """Adds a row; returns its number."""
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        number = self.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values())).lastrowid
        assert number is not None
        return number

    def conclude(self, table: str, number: int, values: Mapping[str, Any], where: str = "TRUE") -> None:
        """Fills in the columns of a row that will not change any more, if `where` holds, and seals it."""
        assignments = ", ".join(f"{name} = ?" for name in values)
        with self.transaction():
            self.execute(f"UPDATE {table} SET {assignments} WHERE id = ? AND {where}", (*values.values(), number))
            self.seal_row(table, number)

    def rows(self, table: str, columns: Sequence[str], where: str = "", values: Sequence[Any] = ()) -> list[Any]:
        """Some columns of some rows."""
        return self.execute(f"SELECT {', '.join(columns)} FROM {table} {where}", values).fetchall()

    def seal_row(self, table: str, number: int) -> None:
        """Stores the digest of a row that will not change any more."""
        cursor = self.execute(f"SELECT * FROM {table} WHERE id = ? AND digest IS NULL", (number,))
        for values in cursor.fetchall():
            names = [column[0] for column in cursor.description]
            digest = row_digest(dict(zip(names, values, strict=True)))
            self.execute(f"UPDATE {table} SET digest = ? WHERE id = ?", (digest, number))

    def settings(self) -> dict[str, Scalar]:
        """See `Ledger.settings`."""
        rows = self.execute("SELECT name, value FROM settings ORDER BY rowid")
        return {name: json.loads(value) for name, value in rows if name != DIGEST}

    def save_settings(self, settings: Mapping[str, Scalar]) -> None:
        """See `Ledger.save_settings`."""
        statement = "INSERT OR REPLACE INTO settings VALUES (?, ?)"
        with self.transaction():
            for name, value in settings.items():
                self.execute(statement, (name, json.dumps(value)))
            digest = row_digest(dict(self.execute("SELECT name, value FROM settings")))
            self.execute(statement, (DIGEST, digest))


def metrics_json(metrics: Mapping[str, Scalar]) -> str:
    """Metrics as they are stored: null for NaN and infinity, which are no JSON, so that SQLite would not read any."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }
    return json.dumps(finite, sort_keys=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns SQLite's complaints into one line that names the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        hint = ""
        if "readonly" in str(error):
            hint = f": who may write to it, and to {path.name}-wal and {path.name}-shm beside it?"
        raise LedgerError(f"{path}: the ledger cannot be opened: {error}{hint}") from error


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
            connection.execute("BEGIN IMMEDIATE")  # finds out whether the log can be used
            connection.execute("ROLLBACK")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _lacks_shared_memory(error: sqlite3.OperationalError) -> bool:
    """Whether the file system has no memory that processes share, which a log needs: some network disks and buckets."""
    return error.sqlite_errorname.startswith(("SQLITE_IOERR_SHM", "SQLITE_PROTOCOL"))


def _give_up_write_ahead(path: Path) -> None:
    """Turns a ledger with a write-ahead log into one with a journal, with all that the log has."""
    connection = _connect(path)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # with nobody else there, no memory is shared
        connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)  # is empty, and was the failure


def _differs_from_seal(path: Path) -> bool:
    """Whether a ledger has other bytes than when it was closed; False where that is not known."""
    try:
        return seal_of(path).read_bytes() != seal_text(path).encode()
    except FileNotFoundError:  # a new one, or one in which somebody is at work
        return False


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Refuses a file that SQLite finds fault with: what is written to it could be lost, or spoil more of it.

    Raises:
      LedgerError: it does.
    """
    try:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise LedgerError(
            f"{path}: is damaged ({' '.join(found.split())}): restore it from a copy; `autoresearch verify` tells more"
        )


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
