"""Snapshots in another place: a folder and a bucket keep the same promises, also where store or driver fail."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_jax.errors import UserError
from autoresearch_jax.snapshots.store import SnapshotStore, StoreError, split_address

pytest.importorskip("gcsfs", reason="gs:// is tried where the extra dev is installed")
from gcs_server import GcsServer

NAME = "0003-0007"
SMALL, PIECE, ANY_FETCH = "POST .*uploadType=multipart", "POST .*upload_id=", "GET /download"  # requests of gcsfs
SIZES = {
    "programs/init.bin": 3000,
    "state/d/0f5c": 6_000_000,  # sent in pieces, as gcsfs does above 5 MiB
    "state/empty": 0,
    "state/ocdbt.process_0/an odd #name?": 10,
    "tokenizer.json": 200,
    "manifest.json": 100,
}


@pytest.fixture
def server() -> Iterator[GcsServer]:
    with GcsServer().running() as server:
        yield server


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Somewhere to put snapshots."""
    if request.param == "folder":
        return str(tmp_path / "mount" / "night")
    request.getfixturevalue("server")
    return "gs://bucket/runs/night"


@pytest.fixture
def store(place: str) -> SnapshotStore:
    store = SnapshotStore(place)
    store.check()
    return store


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return made(tmp_path / "snapshots" / NAME, seed=0)


def made(folder: Path, seed: int) -> Path:
    """A folder of files that depend on the seed."""
    draw = random.Random(seed)
    for name, size in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw.randbytes(size))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_snapshot_comes_back_as_it_was_and_goes_away(store: SnapshotStore, snapshot: Path, place: str) -> None:
    assert not store.is_whole(NAME)
    assert store.put(snapshot) == f"{place}/{NAME}" == store.address(NAME)
    assert store.is_whole(NAME)
    assert not store.is_whole("0003-000")
    there, name = split_address(store.address(NAME))
    SnapshotStore(there).fetch(name, snapshot.parent / "back")
    assert contents(snapshot.parent / "back") == contents(snapshot)
    for _ in range(2):
        store.remove(NAME)
        assert not store.is_whole(NAME)
    with pytest.raises(UserError, match=f"{NAME}: there is no whole snapshot$"):
        store.fetch(NAME, snapshot.parent / "again")
    assert sorted(os.listdir(snapshot.parent)) == [NAME, "back"]


def test_what_is_there_already_is_not_sent_again(server: GcsServer, snapshot: Path) -> None:
    store = SnapshotStore("gs://bucket/night")
    store.put(snapshot)
    all_of_it = server.count(SMALL)
    assert all_of_it == len(SIZES) - 1
    store.put(snapshot)
    assert server.count(SMALL) == all_of_it
    server.remove(f"night/{NAME}/manifest.json")  # as if it had been cut short before its end
    store.put(snapshot)
    assert server.count(SMALL) == all_of_it + 1
    assert server.count(PIECE) == 1
    assert store.is_whole(NAME)


def test_another_snapshot_of_that_name_is_never_replaced(store: SnapshotStore, snapshot: Path) -> None:
    store.put(snapshot)
    first = contents(snapshot)
    shutil.rmtree(snapshot)
    with pytest.raises(StoreError, match=f"{NAME}: another snapshot of that name is there, as of another run"):
        store.put(made(snapshot, seed=1))  # the same sizes
    store.fetch(NAME, snapshot.parent / "back")
    assert contents(snapshot.parent / "back") == first
    assert snapshot.is_dir()


def test_a_folder_is_not_moved_to_itself(snapshot: Path) -> None:
    with pytest.raises(StoreError, match="is the very folder that was to be copied"):
        SnapshotStore(str(snapshot.parent)).put(snapshot)
    assert snapshot.is_dir()


def test_what_fails_once_is_tried_again(server: GcsServer, snapshot: Path) -> None:
    answers: dict[str, int | str] = {"GET /storage": 503, SMALL: 503, PIECE: "cut", ANY_FETCH: "cut"}

    def fail_each_once(request: str) -> int | str | None:
        kind = next((kind for kind in answers if re.match(kind, request)), "")
        return answers.pop(kind, None)

    server.before = fail_each_once
    store = SnapshotStore("gs://bucket/night")
    store.put(snapshot)
    store.fetch(NAME, snapshot.parent / "back")
    assert answers == {}
    assert contents(snapshot.parent / "back") == contents(snapshot)


def test_what_changes_on_the_way_is_noticed(server: GcsServer, snapshot: Path) -> None:
    store = SnapshotStore("gs://bucket/night")
    others = made(snapshot.parent / "others", seed=1)

    def change(request: str) -> None:
        """Before it is looked whether all of it arrived, a file has other bytes."""
        if request.startswith("GET /storage") and server.count(PIECE) and not changed:
            changed.append(request)
            server.write(f"night/{NAME}/tokenizer.json", (others / "tokenizer.json").read_bytes())

    changed: list[str] = []
    server.before = change
    with pytest.raises(UserError, match=f"^gs://bucket/night/{NAME}/tokenizer.json: is not there as it was sent: try"):
        store.put(snapshot)
    assert not store.is_whole(NAME)
    store.put(snapshot)
    store.fetch(NAME, snapshot.parent / "back")
    assert contents(snapshot.parent / "back") == contents(snapshot)


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "Forbidden: .* made to say so"), (401, "made to say so, 401"), (400, "made to say so")]
)
def test_a_refusal_is_one_line_that_names_the_place(
    status: int, reason: str, server: GcsServer, snapshot: Path
) -> None:
    server.before = lambda request: status
    store = SnapshotStore("gs://bucket/night/")
    for what, name, call in (
        ("written to", "", store.check),
        ("written", f"/{NAME}", lambda: store.put(snapshot)),
        ("fetched", f"/{NAME}", lambda: store.fetch(NAME, snapshot.parent / "back")),
        ("looked for", f"/{NAME}", lambda: store.is_whole(NAME)),
        ("removed", f"/{NAME}", lambda: store.remove(NAME)),
    ):
        with pytest.raises(UserError, match=f"^gs://bucket/night{name}: cannot be {what}: {reason}") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert contents(snapshot.parent) == {f"{NAME}/{name}": data for name, data in contents(snapshot).items()}


def test_a_bucket_that_is_not_there_is_no_empty_one(server: GcsServer, snapshot: Path) -> None:
    store = SnapshotStore("gs://other/night")
    for call in (store.check, lambda: store.put(snapshot), lambda: store.is_whole(NAME)):
        with pytest.raises(UserError, match=r"^gs://other/night.*: not found: is there such a bucket or folder\?$"):
            call()


def test_a_folder_that_is_not_mounted_is_no_empty_one(snapshot: Path, tmp_path: Path) -> None:
    store = SnapshotStore(str(tmp_path / "mount"))
    calls: list[Callable[[], object]] = [
        lambda: store.put(snapshot),
        lambda: store.is_whole(NAME),
        lambda: store.remove(NAME),
    ]
    for call in calls:
        with pytest.raises(UserError, match=f"^{tmp_path}/mount: is not there: mount it"):
            call()
    (tmp_path / "mount").write_text("a file")
    with pytest.raises(UserError, match=f"^{tmp_path}/mount: cannot be written to: "):
        store.check()


def test_checking_leaves_nothing(store: SnapshotStore, server: GcsServer, tmp_path: Path) -> None:
    assert not list(tmp_path.rglob("*check*"))
    assert server.names() == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "no place for snapshots: name a folder, or gs://BUCKET/FOLDER, s3://BUCKET/FOLDER"),
        ("ftp://host/x", "ftp://host/x: no place for snapshots: name a folder, or gs://BUCKET/FOLDER"),
        ("gs:/bucket/x/night", "gs:/bucket/x/night: no place for snapshots: such a bucket is spelt gs://bucket/FOLDER"),
        ("S3:///bucket", "S3:///bucket: no place for snapshots: such a bucket is spelt s3://bucket/FOLDER"),
        (
            "s3://bucket/x",
            "s3://bucket/x: s3:// needs the package s3fs, which is missing: in the checkout ./scripts/setup",
        ),
    ],
)
def test_a_place_that_cannot_be_is_refused(place: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    with pytest.raises(UserError) as caught:
        SnapshotStore(place)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["a:b", "./gs:/x"])
def test_a_folder_may_have_a_colon_in_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SnapshotStore(name).address(NAME) == f"{tmp_path / name}/{NAME}"


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


DO = """
import sys
from pathlib import Path
from autoresearch_jax.snapshots.store import SnapshotStore
store = SnapshotStore(sys.argv[1])
folder = Path(sys.argv[3])
calls = {
    "put": lambda: store.put(folder),
    "remove": lambda: store.remove(folder.name),
    "fetch": lambda: store.fetch(folder.name, folder.parent / "back"),
}
print("ready", flush=True)
while True:
    for name in sys.argv[2].split(","):
        calls[name]()
"""


def test_whenever_a_driver_is_killed_a_whole_one_is_whole(store: SnapshotStore, snapshot: Path, place: str) -> None:
    draw = random.Random(6)
    for turn in range(4):
        driver = python(DO, place, "put,remove", snapshot)
        assert driver.stdout is not None
        driver.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            driver.wait(draw.uniform(0, 0.2))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        for step in range(2):  # as it was left, then repeated
            if store.is_whole(NAME):
                back = snapshot.parent / f"back-{turn}-{step}"
                store.fetch(NAME, back)
                assert contents(back) == contents(snapshot)
            store.put(snapshot)


def test_a_driver_without_a_bucket_loads_nothing_for_one_and_never_jax(server: GcsServer) -> None:
    program = """
import sys
import autoresearch_jax.commands.run
from autoresearch_jax.snapshots.store import SnapshotStore
print(sorted(name for name in ("fsspec", "gcsfs", "jax", "aiohttp") if name in sys.modules))
SnapshotStore("gs://bucket/night")
print(sorted(name for name in ("gcsfs", "jax") if name in sys.modules))
"""
    assert python(program).communicate() == ("[]\n['gcsfs']\n", "")
