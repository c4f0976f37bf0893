"""A made-up shop: its tables and rows, the same in every process."""

import random
from collections.abc import Iterator
from datetime import date, timedelta

NUM_CUSTOMERS = 12_000
NUM_ORDERS = 40_000
NUM_LINES = 100_000
NUM_PRODUCTS = 500
NUM_DAYS = 730
FIRST_DAY = date(2024, 1, 1)
REGIONS = ("north", "east", "south", "west")

# For PostgreSQL and for SQLite, which the evaluator checks results with.
SCHEMA = """
CREATE TABLE customers (id integer PRIMARY KEY, email text NOT NULL, region text NOT NULL);
CREATE TABLE orders (id integer PRIMARY KEY, customer integer NOT NULL, placed date NOT NULL, status text NOT NULL);
CREATE TABLE lines (
  order_id integer NOT NULL, product integer NOT NULL, quantity integer NOT NULL, cents integer NOT NULL
);
"""

Rows = list[tuple[int | str, ...]]


def tables() -> Iterator[tuple[str, Rows]]:
    """Each table's name and rows."""
    rng = random.Random(25)
    yield "customers", [(i, email(i), rng.choice(REGIONS)) for i in range(NUM_CUSTOMERS)]
    days = [(FIRST_DAY + timedelta(days=i)).isoformat() for i in range(NUM_DAYS)]
    customers = rng.choices(range(NUM_CUSTOMERS), k=NUM_ORDERS)
    placed = rng.choices(days, k=NUM_ORDERS)
    statuses = rng.choices(("sent", "open", "returned"), (94, 3, 3), k=NUM_ORDERS)
    yield "orders", list(zip(range(NUM_ORDERS), customers, placed, statuses, strict=True))
    columns = [rng.choices(values, k=NUM_LINES) for values in (range(NUM_ORDERS), range(NUM_PRODUCTS), range(1, 6))]
    cents = rng.choices(range(199, 20_000, 50), k=NUM_LINES)
    yield "lines", list(zip(*columns, cents, strict=True))


def email(customer: int) -> str:
    """A customer's address as typed in: with capitals here and there."""
    name = f"{('Ada', 'ben', 'Cleo', 'dan')[customer % 4]}.{customer}"
    return f"{name}@{('example.com', 'Example.org', 'mail.example.net')[customer % 3]}"
