"""p95 latency of the calls of a workload, where every result equals what SQLite finds in the same data."""

import gc
import json
import math
import random
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import data
import psycopg

START_BYTES = 16_400_000  # of the database with no index but the keys', in PostgreSQL 15
MOST_BYTES = 1.6 * START_BYTES
WARM_UP = 6  # calls of each query at a session's begin that are not timed: the sixth has a plan for all parameters
PASSES = 3  # of the workload: a call's latency is its least, without what other processes of the machine added
ORDERED = {"orders_of_customer"}
REFERENCE = {
    "orders_of_customer": """SELECT id, placed, status FROM orders WHERE customer = ?
        ORDER BY placed DESC, id DESC LIMIT 10""",
    "lines_of_order": "SELECT product, quantity, cents FROM lines WHERE order_id = ?",
    "customer_by_email": "SELECT id, region FROM customers WHERE lower(email) = lower(?)",
    "spent_by_customer": """SELECT status, sum(quantity * cents) FROM orders JOIN lines ON order_id = id
        WHERE customer = ? GROUP BY status""",
}
INDEXES = """
CREATE INDEX by_customer ON orders (customer);
CREATE INDEX by_order ON lines (order_id);
CREATE INDEX by_email ON customers (lower(email));
"""

Call = tuple[str, int | str]


def main() -> None:
    request = json.loads(sys.stdin.readline())
    shares = json.loads(Path(request["files"][0]).read_text())
    rng = random.Random(f"{request['split']} {request['seed']}")
    calls = draw_calls(shares, rng)
    host = str(Path(request["socket"]).parent)
    answers: list[list[Any]] = []
    best = [math.inf] * len(calls)
    try:
        for _ in range(PASSES):  # a session each, so that nothing that one of them keeps helps the next
            with psycopg.connect(host=host, user="shop", dbname="shop") as connection:
                connection.read_only = True
                bytes_now = connection.execute("SELECT pg_catalog.pg_database_size('shop')").fetchone()[0]
                ask(connection, draw_calls(dict.fromkeys(shares, WARM_UP), rng))
                found, seconds = ask(connection, calls)
            answers += found
            best = list(map(min, best, seconds))
    except psycopg.Error as error:
        say({"invalid": f"PostgreSQL: {str(error).splitlines()[0]}"})
        return
    if bytes_now > MOST_BYTES:
        say({"invalid": f"the database has {bytes_now} bytes, at most {MOST_BYTES:.0f} are allowed"})
        return
    if (difference := first_difference(calls * PASSES, answers)) is not None:
        say({"invalid": difference})
        return
    by_query: dict[str, list[float]] = {name: [] for name in shares}
    for (name, _), one in zip(calls, best, strict=True):
        by_query[name].append(one)
    figures = {f"p95_ms_{name}": percentile_ms(values, 0.95) for name, values in by_query.items()}
    figures |= {"p95_ms": percentile_ms(best, 0.95), "p50_ms": percentile_ms(best, 0.5)}
    say({**figures, "bytes": bytes_now})


def draw_calls(shares: dict[str, int], rng: random.Random) -> list[Call]:
    """The calls of a workload in their order.

    Args:
      shares: number of calls of each query.
    """

    def typed_email() -> str:
        typed = data.email(rng.randrange(data.NUM_CUSTOMERS))
        return rng.choice((typed, typed.lower(), typed.upper()))

    draws = {
        "orders_of_customer": lambda: rng.randrange(data.NUM_CUSTOMERS),
        "lines_of_order": lambda: rng.randrange(data.NUM_ORDERS),
        "customer_by_email": typed_email,
        "spent_by_customer": lambda: rng.randrange(data.NUM_CUSTOMERS),
    }
    calls = [(name, draws[name]()) for name, count in shares.items() for _ in range(count)]
    rng.shuffle(calls)
    return calls


def ask(connection: psycopg.Connection, calls: list[Call]) -> tuple[list[list[Any]], list[float]]:
    """The rows of each call, and the seconds that it took."""
    answers, seconds = [], []
    gc.disable()
    with connection.cursor() as cursor:
        for name, parameter in calls:
            kind = "text" if isinstance(parameter, str) else "integer"
            query = f"SELECT * FROM {name}(%s::{kind})"
            begin = time.perf_counter()
            rows = cursor.execute(query, (parameter,), prepare=True).fetchall()
            seconds.append(time.perf_counter() - begin)
            answers.append(rows)
    gc.enable()
    return answers, seconds


def first_difference(calls: list[Call], answers: list[list[Any]]) -> str | None:
    """The first call whose rows are not the reference's, in words."""
    reference = sqlite3.connect(":memory:")
    reference.executescript(data.SCHEMA)
    for table, rows in data.tables():
        reference.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    reference.executescript(INDEXES)
    for (name, parameter), rows in zip(calls, answers, strict=True):
        wanted = plain(name, reference.execute(REFERENCE[name], (parameter,)))
        found = plain(name, rows)
        if found != wanted:
            return f"{name}({parameter!r}) gave {len(found)} rows {found[:2]}, not {len(wanted)} rows {wanted[:2]}"
    return None


def plain(name: str, rows: Any) -> list[tuple[str, ...]]:
    """Rows as text, sorted unless the query orders them."""
    found = [tuple(str(value) for value in row) for row in rows]
    return found if name in ORDERED else sorted(found)


def percentile_ms(seconds: list[float], share: float) -> float:
    """The smallest value, in milliseconds, that `share` of all do not exceed."""
    return 1000 * sorted(seconds)[math.ceil(share * len(seconds)) - 1]


def say(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
