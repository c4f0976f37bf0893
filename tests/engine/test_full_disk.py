"""A whole run on a disk that gets full, or can no longer be written to: it stops in one line and goes on later."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fake_driver import TAG, Nursery, Order
from kills import make_repository, snapshots_of, substance_of
from small_disk import SmallDisk, small_disk

from autoresearch_jax.engine.integrity import ledger_page_differences

EXPERIMENTS = 3
SNAPSHOT_BYTES = 200_000
KILOBYTE = 1024


@dataclass
class Place:
    """A run on a small disk, and the same run elsewhere with room enough.

    Attributes:
      disk: where it is.
      nursery: drivers that see it.
      order: for them.
      log: what they print.
      template: a repository without a run.
      reference: the same with the finished run.
    """

    disk: SmallDisk
    nursery: Nursery
    order: Order
    log: Path
    template: Path
    reference: Path

    def run(self, **changes: object) -> tuple[int, str]:
        """Exit status and last line of what a driver printed."""
        status = self.nursery.run(replace(self.order, **changes))
        return status, self.log.read_text().splitlines()[-1]

    def copied(self, tmp_path: Path) -> Path:
        """The repository where SQLite finds it, too."""
        return shutil.copytree(self.disk.outside / "repo", tmp_path / "copied", symlinks=True)


@pytest.fixture(scope="module")
def any_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place whose disk has no repository yet."""
    folder = tmp_path_factory.mktemp("place")
    template, log = make_repository(folder / "template"), folder / "log"
    reference = shutil.copytree(template, folder / "reference")
    (folder / "disk").mkdir()
    with small_disk(folder / "disk", megabytes=16) as disk, closing(Nursery(disk.command)) as nursery:
        order = Order(str(disk.path / "repo"), EXPERIMENTS, snapshot_bytes=SNAPSHOT_BYTES, log=str(log))
        with closing(Nursery()) as elsewhere:
            assert elsewhere.run(replace(order, repo=str(reference), log="")) == 0
        yield Place(disk, nursery, order, log, template, reference)


@pytest.fixture
def place(any_place: Place) -> Iterator[Place]:
    shutil.copytree(any_place.template, any_place.disk.outside / "repo")
    yield any_place
    shutil.rmtree(any_place.disk.outside / "repo")


def check_whole(place: Place, tmp_path: Path) -> None:
    """Finds the run as it would be if there had been room all the time."""
    repo = place.copied(tmp_path)
    assert substance_of(repo) == substance_of(place.reference)
    assert snapshots_of(repo) == snapshots_of(place.reference)
    assert ledger_page_differences(repo / "runs" / TAG / "ledger.db") == []


def test_too_little_room_is_found_before_a_trial_and_the_run_goes_on_later(place: Place, tmp_path: Path) -> None:
    place.disk.fill(leave_bytes=4 * 2**20)
    status, line = place.run(min_free_bytes=3 * 2**20)
    assert status == 1
    assert "are free on its disk, but " in line
    assert line.endswith("; the same command goes on from here")
    place.disk.make_room()
    assert place.run(min_free_bytes=3 * 2**20)[0] == 0
    check_whole(place, tmp_path)


@pytest.mark.parametrize("kilobytes", [900, *(pytest.param(size, marks=pytest.mark.slow) for size in (300, 1700))])
def test_a_disk_that_gets_full_anywhere_harms_nothing(place: Place, tmp_path: Path, kilobytes: int) -> None:
    place.disk.fill(leave_bytes=kilobytes * KILOBYTE)
    status, line = place.run()
    assert status == 1
    assert "Traceback" not in place.log.read_text()
    assert "full" in line or "No space left" in line or "free on its disk" in line, line
    place.disk.make_room()
    assert place.run()[0] == 0
    check_whole(place, tmp_path)


def test_a_disk_that_can_only_be_read_any_more_harms_nothing(place: Place, tmp_path: Path) -> None:
    assert place.run(experiments=1)[0] == 0
    place.disk.remount("ro")
    status, line = place.run()
    assert status == 1
    assert "read" in line.lower(), line
    assert "Traceback" not in place.log.read_text()
    place.disk.remount("rw")
    assert place.run()[0] == 0
    check_whole(place, tmp_path)
