"""Which snapshots a run keeps, where they are, and what is done when that is not possible."""

import shutil
from pathlib import Path

import pytest
from fakes import FakeTask, ScriptedProposer, moved

from autoresearch_jax.decide.rule import LineageRule, LineageSettings
from autoresearch_jax.engine.git import WorktreeError
from autoresearch_jax.engine.records import Purpose, SnapshotEvent
from autoresearch_jax.snapshots.kept import Whereabouts, find_snapshot
from autoresearch_jax.snapshots.retention import Keeping
from autoresearch_jax.snapshots.store import StoreError
from autoresearch_jax.types import Metric

# Of these only 4 is kept; the best of the others are 2 and 6.
SCRIPT = [moved(LR=rate) for rate in (0.9, 0.52, 0.8, 0.3, 0.7, 0.33, 0.6)]
CHAMPIONS = {0, 4}


def kept(bench) -> set[int]:
    """Experiments that have a snapshot in the run's folder."""
    return {int(path.name[:4]) for path in bench.folder.snapshots.iterdir()}


@pytest.mark.parametrize(
    ("keeping", "others"),
    [
        (Keeping(last=0, best=0), set()),
        (Keeping(last=0, best=2), {2, 6}),
        (Keeping(last=1, best=1), {6, 7}),
    ],
)
def test_champions_the_last_and_the_best_are_kept(bench, keeping, others):
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT), keeping=keeping).run()
    ledger = bench.ledger()
    assert {row.id for row in ledger.experiments() if row.decision == "keep"} == CHAMPIONS
    assert kept(bench) == CHAMPIONS | others
    latest = ledger.snapshot_events()
    assert {trial.experiment for trial in ledger.trials() if trial.id in latest} == set(range(8)) - kept(bench)


def test_a_metric_to_be_maximized_has_its_best_at_the_other_end(bench):
    class Upwards(FakeTask):
        def __init__(self):
            super().__init__(noise=0)
            self.metric = Metric("loss", "maximize")

    bench.loop(Upwards(), ScriptedProposer(SCRIPT), keeping=Keeping(last=0, best=1)).run()
    rows = bench.ledger().experiments()
    champions = {row.id for row in rows if row.decision == "keep"}
    best = max((row for row in rows if row.id not in champions), key=lambda row: row.score)
    assert kept(bench) == champions | {best.id}


def test_of_a_champion_only_the_runs_are_kept_that_its_score_is_made_of(bench):
    rule = LineageRule(Metric("loss"), LineageSettings())
    bench.loop(FakeTask(), ScriptedProposer([moved(LR=0.1)]), rule).run()
    ledger = bench.ledger()
    fresh = {trial.id for trial in ledger.trials(1) if trial.purpose is Purpose.CHAMPION}
    there = {int(path.name[5:]) for path in bench.folder.snapshots.glob("0001-*")}
    assert there == fresh < {trial.id for trial in ledger.trials(1)}


def test_what_was_deleted_by_hand_and_what_is_not_ours_does_not_matter(bench):
    mine = bench.folder.snapshots / "of mine"
    bench.folder.create()
    mine.mkdir(parents=True)
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:3]), keeping=Keeping(1, 0)).run()
    shutil.rmtree(bench.folder.snapshots / "0003-0004")
    assert bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT), keeping=Keeping(1, 0)).run() == "the script is over"
    assert mine.is_dir()


def test_another_number_holds_from_the_next_start_on(bench):
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT)).run()
    bench.recorder.notices.clear()
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT), keeping=Keeping(last=0, best=0)).run()
    assert kept(bench) == CHAMPIONS
    assert bench.recorder.notices == [
        "6 snapshots are deleted: --keep_last=0 and --keep_best=0 keep no more than that beside those of champions"
    ]
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT)).run()
    rows = bench.ledger().select("snapshot_events", ("event",))
    assert [row["event"] for row in rows] == [SnapshotEvent.EXPIRED] * 6, "each once"


def names(place: Path) -> set[str]:
    """Snapshots at a place."""
    return {path.name for path in place.glob("0*")}


def test_a_place_that_goes_holds_up_nothing_and_is_made_up_for(bench, tmp_path: Path):
    place, unmounted = tmp_path / "bucket", tmp_path / "unmounted"
    keeping = Keeping(last=1, best=0, place=str(place))

    class Unmounting(FakeTask):
        def measure(self, candidate, **arguments):
            if len(self.measured) == 3:
                place.rename(unmounted)
            return super().measure(candidate, **arguments)

    bench.loop(Unmounting(noise=0), ScriptedProposer(SCRIPT[:4]), keeping=keeping).run()
    told = [notice for notice in bench.recorder.notices if str(place) in notice]
    assert told, "it says that the place is gone"
    assert len(told) == len(set(told)), "and does so once"
    assert kept(bench) == {3, 4}
    assert names(unmounted) == {"0000-0001", "0002-0003"}
    with pytest.raises(
        StoreError, match=r"bucket: snapshots of this run were moved there, .*: mount it again, or name"
    ):
        bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:4]), keeping=keeping).run()
    assert not place.exists(), "it is not made anew"
    unmounted.rename(place)
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:4]), keeping=keeping).run()
    assert kept(bench) == set()
    assert names(place) == {"0000-0001", "0003-0004", "0004-0005"}


def test_a_snapshot_of_another_run_is_never_replaced(bench, tmp_path: Path):
    other = tmp_path / "bucket" / "0000-0001" / "manifest.json"
    other.parent.mkdir(parents=True)
    other.write_text("of another run")
    keeping = Keeping(last=1, best=0, place=str(tmp_path / "bucket"))
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:2]), keeping=keeping).run()
    assert any("0000-0001: another snapshot of that name is there" in notice for notice in bench.recorder.notices)
    assert other.read_text() == "of another run"
    assert 0 in kept(bench)


def test_a_copy_of_a_run_deletes_nothing_of_the_original(bench, tmp_path: Path, run_git):
    place = tmp_path / "night"
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:2]), keeping=Keeping(2, 0, str(place))).run()
    before = names(place)
    shutil.copytree(bench.folder.path, bench.repo / "runs" / "copy", symlinks=True)
    copy = bench.with_tag("copy")
    elsewhere = Keeping(last=0, best=0, place=str(tmp_path / "copy"))

    def go_on():
        return copy.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:3]), keeping=elsewhere).run()

    with pytest.raises(WorktreeError, match=r"runs/copy/workspace is not a worktree of .*, or that of another place"):
        go_on()
    shutil.rmtree(copy.folder.workspace)
    assert go_on() == "the script is over"
    assert names(place) == before
    assert copy.ledger().snapshot_events()[2].event is SnapshotEvent.MOVED, "it knows where that one is"
    worktrees = run_git(bench.repo, "worktree", "list", "--porcelain")
    assert "runs/night/workspace" in worktrees
    assert "runs/copy/workspace" in worktrees


def test_the_runs_own_folder_is_no_other_place(bench, tmp_path: Path):
    big = tmp_path / "big"
    (big / "night").mkdir(parents=True)
    bench.folder.create()
    bench.folder.snapshots.symlink_to(big / "night")
    keeping = Keeping(place=str(big / "night"))
    with pytest.raises(StoreError, match=r"big/night: is the run's own folder of snapshots: leave --snapshot_dir away"):
        bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:1]), keeping=keeping).run()


def test_what_was_brought_home_is_kept_and_found(bench, tmp_path: Path):
    place = tmp_path / "night"
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:1]), keeping=Keeping(place=str(place))).run()
    shutil.copytree(place / "0000-0001", bench.folder.snapshots / "0000-0001")
    shutil.rmtree(place)
    bench.loop(FakeTask(noise=0), ScriptedProposer(SCRIPT[:2])).run()
    assert kept(bench) == {0, 2}
    ledger = bench.ledger()
    found = find_snapshot(ledger, bench.folder, ledger.trials(0)[0])
    assert found.whereabouts is Whereabouts.HERE
