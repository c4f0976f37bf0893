"""The examples routing and retrieval: small data, three experiments of `autoresearch run`, in the sandbox."""

import csv
import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from example_runs import copy_of, three_experiments

WORDS = {
    "billing": "invoice refund charge card price",
    "network": "router cable wifi packet slow",
    "account": "login password reset name locked",
}
FIRST = {"routing": "accuracy", "retrieval": "mrr_at_10"}

needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sklearn", "wordllama")),
    reason="scikit-learn or wordllama is missing: ./scripts/setup.sh examples",
)


def prepare(example: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, example / "prepare.py", *flags], capture_output=True, text=True)


def write_tickets(path: Path) -> None:
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("subject", "team"))
        for number in range(300):
            team = draw.choice(list(WORDS))
            words = WORDS[draw.choice([team, team, *WORDS])].split()
            rows.writerow((f"{' '.join(draw.sample(words, 2))} case{number}", team))


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("name", ["routing", "retrieval"])
def test_three_experiments(name, tmp_path):
    example, tickets = copy_of(name, tmp_path), tmp_path / "tickets.csv"
    write_tickets(tickets)
    small = [f"--csv={tickets}", "--text=subject", "--label=team"] if name == "routing" else ["--limit=300"]
    assert prepare(example, *small).returncode == 0
    assert 0.1 < three_experiments(name, tmp_path, "--baseline_runs=2", "--max_runs=1")[f"baseline_{FIRST[name]}"] < 1


def test_debian_packages_become_three_splits(tmp_path):
    if shutil.which("apt-cache") is None or not subprocess.check_output(["apt-cache", "dumpavail"]):
        pytest.skip("apt-cache lists no packages here")
    example = copy_of("routing", tmp_path)
    assert prepare(example, "--limit=2000").returncode == 0
    train, val, holdout = (
        (example / "data" / f"{name}.csv").read_text().splitlines() for name in ("train", "val", "holdout")
    )
    assert train[0] == val[0] == holdout[0] == "text,label"
    assert len(train) > 2 * len(val) > 2 * len(holdout) > 200


def test_a_column_that_is_not_there_is_one_line(tmp_path):
    example, tickets = copy_of("routing", tmp_path), tmp_path / "tickets.csv"
    tickets.write_text("subject,team\nx,y\n")
    done = prepare(example, f"--csv={tickets}", "--label=team")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{tickets}:1" in done.stderr
    assert "subject, team" in done.stderr
