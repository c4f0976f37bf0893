"""The example postgres with a small shop: three experiments on a real PostgreSQL; other rows are INVALID."""

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from example_runs import copy_of, invalid_trial, three_experiments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="no PostgreSQL: apt-get install postgresql"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("psycopg") is None, reason="psycopg is missing: ./scripts/setup.sh examples"
    ),
    pytest.mark.skipif(
        os.geteuid() == 0 and shutil.which("bwrap") is None,
        reason="PostgreSQL refuses root: apt-get install bubblewrap",
    ),
]


def test_three_experiments_and_an_asset_that_answers_otherwise(tmp_path: Path) -> None:
    example = copy_of("postgres", tmp_path)
    data = example / "data.py"
    data.write_text(re.sub(r"(?m)^(NUM_(?:CUSTOMERS|ORDERS|LINES)) = .*", r"\1 = 1_000", data.read_text()))
    for workload in example.glob("workload_*.json"):
        workload.write_text(json.dumps(dict.fromkeys(json.loads(workload.read_text()), 5)))
    status = three_experiments("postgres", tmp_path, "--baseline_runs=2", "--max_runs=1")
    assert status["baseline_p95_ms"] > 0
    assert status.get("crash", 0) == 0
    shop = example / "shop.sql"
    shop.write_text(shop.read_text().replace("LIMIT 10", "LIMIT 1"))
    assert "orders_of_customer" in invalid_trial("postgres", tmp_path)
