"""A run in a folder that is mounted as buckets are: through FUSE, without memory that processes share."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fake_driver import Nursery, Order, log_of
from kills import facts, make_repository

from autoresearch_jax.engine.ledger import Ledger


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """An empty folder that bindfs passes on, past the page cache."""
    source, target = tmp_path / "source", tmp_path / "mounted"
    source.mkdir()
    target.mkdir()
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed")
    result = subprocess.run(
        ["bindfs", "-o", "direct_io", str(source), str(target)], check=False, capture_output=True, text=True
    )
    if result.returncode != 0:
        pytest.skip(f"bindfs cannot mount here: {result.stderr.strip()}")
    try:
        yield target
    finally:
        subprocess.run(["fusermount", "-u", "-z", str(target)], check=True)


def test_a_ledger_does_without_a_write_ahead_log(mounted: Path) -> None:
    with closing(Ledger.open(mounted / "ledger.db")) as ledger:
        ledger.save_settings({"seed": 3})
        with closing(Ledger.open_to_read(mounted / "ledger.db")) as reader:
            assert reader.settings() == {"seed": 3}
    assert sorted(path.name for path in mounted.iterdir()) == ["ledger.db"]


def test_a_ledger_with_a_log_that_was_brought_here_loses_nothing(mounted: Path, tmp_path: Path) -> None:
    elsewhere = Ledger.open(tmp_path / "ledger.db")
    elsewhere.save_settings({"seed": 3})
    for path in tmp_path.glob("ledger.db*"):  # while it is open: the row is in the log alone
        shutil.copy(path, mounted)
    elsewhere.close()
    (mounted / "ledger.db-shm").unlink()
    with closing(Ledger.open(mounted / "ledger.db")) as ledger:
        assert ledger.settings() == {"seed": 3}
    assert not (mounted / "ledger.db-wal").exists()


def test_a_run_is_killed_and_goes_on_as_elsewhere(mounted: Path, tmp_path: Path) -> None:
    reference, repo = make_repository(tmp_path / "reference"), make_repository(mounted / "repo")
    order = Order(str(repo), experiments=2)
    with closing(Nursery()) as nursery:
        assert nursery.run(replace(order, repo=str(reference))) == 0, log_of(reference)
        for number in (5, 20):
            assert nursery.run(replace(order, die_before=number)) == -signal.SIGKILL, log_of(repo)
        assert nursery.run(order) == 0, log_of(repo)
    assert facts(repo) == facts(reference)
