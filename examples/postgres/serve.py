"""A new PostgreSQL with the shop's data and what shop.sql adds to it, on the unix socket $SOCKET."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import data
import psycopg

ASSET = Path("shop.sql")
POLL_SECONDS = 0.05
# Nothing here is to last, so nothing waits for the disk; the smallest write-ahead log.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "64MB",
    "autovacuum": "off",
    "max_connections": "10",
    "log_min_error_statement": "panic",  # the asset is known
    "shared_buffers": "64MB",
}


def main() -> None:
    socket = Path(os.environ["SOCKET"])
    programs = newest_programs()
    cluster = tempfile.mkdtemp(prefix="cluster-")
    initdb = [f"{programs}/initdb", "-D", cluster, "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    run([*initdb, "--no-locale", "--no-sync", "--no-instructions", "--wal-segsize=1"])
    settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    server = subprocess.Popen([f"{programs}/postgres", "-D", cluster, "-k", str(socket.parent), *settings])
    while subprocess.run([f"{programs}/pg_isready", "-q", "-h", str(socket.parent)], check=False).returncode:
        if server.poll() is not None:
            sys.exit("PostgreSQL ended before it was ready")
        time.sleep(POLL_SECONDS)
    fill(str(socket.parent))
    os.link(socket.parent / ".s.PGSQL.5432", socket)  # ready: all of the data is there
    sys.exit(server.wait())


def newest_programs() -> Path:
    """The folder of PostgreSQL's programs."""
    folders = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    if not folders:
        sys.exit("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    return max(folders, key=lambda path: int(path.parent.name))


def run(argv: Sequence[str]) -> None:
    """Runs a program whose output only matters where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{argv[0]}: {done.stderr.strip() or done.stdout.strip()}")


def fill(host: str) -> None:
    """Makes the database, loads the tables, applies the asset as the owner, who may do nothing beyond it."""
    with psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE ROLE shop LOGIN")
        connection.execute("CREATE DATABASE shop OWNER shop")
    with psycopg.connect(host=host, user="shop", dbname="shop", autocommit=True) as connection:
        connection.execute(data.SCHEMA)
        for table, rows in data.tables():
            with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
                copy.write("".join("\t".join(map(str, row)) + "\n" for row in rows))
        apply(connection, ASSET.read_text())
    with psycopg.connect(host=host, user="shop", dbname="shop", autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE customers, orders, lines")


def apply(connection: psycopg.Connection, text: str) -> None:
    """Executes the asset; an error names its line."""
    try:
        connection.execute(text)
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = f":{text[: int(position)].count(chr(10)) + 1}" if position else ""
        sys.exit(f"{ASSET}{line}: {error.diag.message_primary or error}")


if __name__ == "__main__":
    main()
