"""`autoresearch run` with real trials, and a disk for its snapshots that gets full: no candidate is blamed for it."""

import sys
from pathlib import Path

import pytest
from small_disk import small_disk

from autoresearch_jax.engine.ledger import Ledger

MAIN = "import sys; from autoresearch_jax.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_snapshot_without_room_stops_the_run_and_leaves_its_trial_open(tiny_run: list[str], tmp_path: Path) -> None:
    run = [
        *(sys.executable, "-c", MAIN, "run", "--tag=q", *tiny_run),
        *("--experiments=1", "--min_free_gb=0", "--proposer=constants", "--platform=cpu"),
        *(f"--program={tmp_path / 'program.md'}", f"--editable={tmp_path / 'train_lib.py'}"),
        f"--run_dir={tmp_path / 'runs'}",
    ]
    snapshots = tmp_path / "runs" / "q" / "snapshots"
    snapshots.mkdir(parents=True)
    with small_disk(snapshots, megabytes=4) as disk:
        disk.fill(leave_bytes=300_000)  # as much as the state has, but not the programs besides
        ended = disk.run(run)
        assert ended.returncode == 1, ended
        line = ended.stderr.strip().splitlines()[-1]
        assert f"{snapshots}" in line, line
        assert "the disk is full" in line
        assert line.endswith("; the same command goes on from here")
        assert Ledger.open_to_read(tmp_path / "runs/q/ledger.db").open_trials()
        disk.make_room()
        assert list(disk.outside.iterdir()) == [], "nothing half-written is left"
        ended = disk.run(run)
        assert ended.returncode == 0, ended
    rows = Ledger.open_to_read(tmp_path / "runs/q/ledger.db").experiments()
    assert [row.status for row in rows] == ["ok", "ok"]
