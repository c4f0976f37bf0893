"""Makes data/: one-line descriptions of Debian's packages with their section, or a CSV of tickets of your own.

    python3 examples/routing/prepare.py
    python3 examples/routing/prepare.py --csv=tickets.csv --text=subject --label=team

data/train.csv, data/val.csv and data/holdout.csv have the columns text and label. A row's split is drawn by the hash of
its source package, so that the packages made from one source are in one split; in a CSV of your own by the hash of the
text. Debian's come from `apt-cache dumpavail`: the lists that `apt-get update` brought, and no download.
"""

import argparse
import csv
import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).parent / "data"
SHARES = {"train": 0.7, "val": 0.2, "holdout": 0.1}
# Sections that a person chooses by what a program is for. Others follow from its language, such as perl, or its build.
SECTIONS = frozenset(
    "admin editors fonts games graphics mail math net science sound text utils video web".split()  # noqa: SIM905
)

Row = tuple[str, str, str]  # what it is split by, text, label


def packages() -> Iterator[Row]:
    """One package of each source: the one that has the source's name, else the first.

    Raises:
      SystemExit: the machine has no list of packages.
    """
    try:
        listed = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"prepare.py: apt-cache: {error}: on a system that is not Debian's give a CSV, see --help")
    of_source: dict[str, Row] = {}
    for paragraph in listed.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        name, text = fields.get("Package", ""), fields.get("Description", "")
        source = fields.get("Source", name).split(" ")[0]
        if text and (source == name or source not in of_source):
            of_source[source] = (source, text, fields.get("Section", "").rpartition("/")[2])
    return (row for row in of_source.values() if row[2] in SECTIONS)


def tickets(path: Path, text: str, label: str) -> Iterator[Row]:
    """The rows of a CSV with a header.

    Raises:
      SystemExit: a column is missing.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for column in (text, label):
            if column not in (reader.fieldnames or ()):
                sys.exit(f"prepare.py: {path}:1: no column {column!r}; there are {', '.join(reader.fieldnames or ())}")
        for row in reader:
            if row[text] and row[label]:
                yield row[text], " ".join(row[text].split()), row[label]


def split_of(key: str) -> str:
    """The split of all rows with a key."""
    drawn = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32
    for name, share in SHARES.items():
        drawn -= share
        if drawn < 0:
            return name
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="tickets of your own")
    parser.add_argument("--text", default="text", help="column of the CSV (default: text)")
    parser.add_argument("--label", default="label", help="column of the CSV (default: label)")
    parser.add_argument("--limit", type=int, help="rows at most, for a small try")
    given = parser.parse_args()
    try:
        rows = sorted(set(tickets(given.csv, given.text, given.label) if given.csv else packages()))
    except OSError as error:
        sys.exit(f"prepare.py: {given.csv}: {error.strerror}")
    rows = sorted(rows, key=lambda row: hashlib.sha256(repr(row).encode()).digest())[: given.limit]
    DATA.mkdir(exist_ok=True)
    for name in SHARES:
        split = [(text, label) for key, text, label in rows if split_of(key) == name]
        if len({label for _, label in split}) < 2:
            sys.exit(f"prepare.py: {len(rows)} rows are too few: {name} has {len(split)}, and not two labels")
        with (DATA / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *split])
        label, count = Counter(label for _, label in split).most_common(1)[0]
        print(f"{name}: {len(split)} rows, {count / len(split):.3f} of them {label}")


if __name__ == "__main__":
    main()
