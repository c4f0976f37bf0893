"""`autoresearch run` with real trials, and a disk for its snapshots that gets full: no candidate is blamed for it."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_disk import small_disk

from autoresearch_jax.lm.dataset import Dataset
from autoresearch_jax.search.ledger import Ledger

PAGE = "## Goal\n\nLower it.\n\n## You may change\n\n|constant|values|\n|---|---|\n|LEARNING_RATE|1.0 .. 40.0|\n"
MAIN = "import sys; from autoresearch_jax.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_snapshot_without_room_stops_the_run_and_leaves_its_trial_open(
    tiny_dataset: Dataset, tiny_source: str, tmp_path: Path
) -> None:
    (tmp_path / "train_lib.py").write_text(tiny_source)
    (tmp_path / "program.md").write_text(PAGE)
    for words in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=x", "-c", "user.email=x@y.org", "commit", "-qm", "a"),
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    run = [
        *(sys.executable, "-c", MAIN, "run", "--tag=q", "--sequence_length=32", "--vocab_sizes=256,320"),
        *(f"--corpus={tiny_dataset.manifest.corpus}", f"--data_dir={tiny_dataset.folder.parent}"),
        *("--budget_steps=20", "--decision=greedy", "--experiments=1", "--min_free_gb=0", "--proposer=optuna"),
        *(f"--compile_cache={tmp_path / 'cache'}", "--platform=cpu", f"--program={tmp_path / 'program.md'}"),
        *(f"--editable={tmp_path / 'train_lib.py'}", f"--run_dir={tmp_path / 'runs'}"),
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
        assert Ledger.open_to_read(tmp_path / "runs/q/ledger.db").open_trial() is not None
        disk.make_room()
        assert list(disk.outside.iterdir()) == [], "nothing half-written is left"
        ended = disk.run(run)
        assert ended.returncode == 0, ended
    rows = Ledger.open_to_read(tmp_path / "runs/q/ledger.db").experiments()
    assert [row.status for row in rows] == ["ok", "ok"]
