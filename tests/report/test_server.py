"""The server of a live page, as a browser and as others ask it."""

import hashlib
import http.client
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from nights import write_night
from watched import serving

from autoresearch_jax.cli import main
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.server import listen
from autoresearch_jax.types import Status

TOKEN = "correct horse & 100% battery+"
Headers = dict[str, str]
Ask = Callable[..., tuple[int, Headers, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_night(tmp_path_factory.mktemp("runs") / "night", 30)


@pytest.fixture(scope="module")
def port(folder: RunFolder) -> Iterator[int]:
    with serving(folder) as server:
        yield server.port


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, Headers, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_the_page_and_its_scripts_are_served_with_a_policy(port: int) -> None:
    for path, kind in (("/", "text/html"), ("/plotly.js", "text/javascript"), ("/page.js", "text/javascript")):
        status, headers, text = ask(port, path)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert len(text) > 1000


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "[::2]", "", "["])
def test_another_host_is_refused(port: int, host: str) -> None:
    assert ask(port, Host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1", "[::1]:8765"])
def test_a_name_of_this_machine_is_let_in(port: int, host: str) -> None:
    assert ask(port, Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", ""])
def test_another_origin_is_refused(port: int, origin: str) -> None:
    assert ask(port, Origin=origin)[0] == 403


def test_its_own_origin_is_let_in(port: int) -> None:
    assert ask(port, "/page.js", Origin=f"http://127.0.0.1:{port}")[0] == 200


def test_nothing_can_be_sent_or_found_elsewhere(port: int) -> None:
    assert ask(port, method="POST")[0] == 405
    assert ask(port, "/ledger.db")[0] == 404
    assert ask(port, "/../ledger.db")[0] == 404


def test_a_new_row_is_told_as_an_event(folder: RunFolder, port: int) -> None:
    page = ask(port)[2]
    made_at = page.partition('data-live="')[2].partition('"')[0]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", f"/events?since={made_at}")
        answer = connection.getresponse()
        assert answer.getheader("content-type").startswith("text/event-stream")
        assert next_event(answer)[0] == "state"
        with closing(Ledger.open(folder.ledger)) as ledger:
            row = ledger.begin_experiment(Intent(Kind.PROPOSAL, "x = 1\n", hypothesis="seen at once", parent=0))
            ledger.conclude(row.id, Status.CRASH, None, None, "it crashed", None, 1.0)
        name, data = next_event(answer)
        while name != "update":
            name, data = next_event(answer)
        assert "seen at once" in data["parts"][f"row-{row.id}"]["html"]


def test_it_ends_the_events_of_open_pages_in_order(folder: RunFolder) -> None:
    with serving(folder) as server, closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as page:
        page.request("GET", "/events?since=")
        answer = page.getresponse()
        assert next_event(answer)[0] == "reload"
        server.process.send_signal(signal.SIGINT)
        while answer.readline():
            pass
        assert answer.isclosed()  # the last chunk came
        assert server.process.wait(timeout=60) == 0


def next_event(answer: http.client.HTTPResponse) -> tuple[str, dict]:
    name, data = "", {}
    while line := answer.readline().decode().rstrip("\r\n"):
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = json.loads(value)
    return name, data


def test_with_a_token_only_who_knows_it_sees_the_page_and_nothing_is_written_into_the_run(
    folder: RunFolder, tmp_path: Path
) -> None:
    copy = RunFolder(shutil.copytree(folder.path, tmp_path / "night"))
    before = written(copy.path)
    with serving(copy, "--host=0.0.0.0", f"--token={TOKEN}") as server:
        port = server.port
        assert ask(port)[0] == 403
        assert ask(port, "/events")[0] == 403
        assert ask(port, "/?token=wrong")[0] == 403
        status, headers, _ = ask(port, server.url.partition(str(port))[2])
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert ask(port, Cookie=f"other=1; {cookie.partition(';')[0]}", Host="machine.example")[0] == 200
        name = cookie.partition("=")[0]
        assert name.endswith(hashlib.sha256(TOKEN.encode()).hexdigest()[:8]), "ports of a host share cookies"
        assert ask(port, Cookie=f"{name}=guess")[0] == 403
        assert ask(port, Cookie=f"{name}=\xe9")[0] == 403
    assert written(copy.path) == before


@pytest.mark.parametrize(
    ("flags", "named", "status"),
    [
        (["--host=0.0.0.0"], "--token", 2),
        (["--token=short"], "--token", 2),
        (["--tag=none"], "none", 1),
        (["--port=70000"], "port", 2),
        (["--host=no.such.host.invalid", f"--token={TOKEN}"], "--host", 1),
        ([f"--host={'a' * 70}", f"--token={TOKEN}"], "--host", 1),
    ],
)
def test_what_cannot_be_served_is_one_line(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], flags: list[str], named: str, status: int
) -> None:
    words = ["watch", f"--run_dir={folder.path.parent}", f"--tag={folder.path.name}", "--port=0", *flags]
    assert main(words) == status
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1


def test_a_port_in_use_is_one_line(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        words = ["watch", f"--run_dir={folder.path.parent}", f"--tag={folder.path.name}", f"--port={port}"]
        assert main(words) == 1
    error = capsys.readouterr().err
    assert f"--port={port}" in error
    assert len(error.splitlines()) == 1


def written(folder: Path) -> dict[Path, int]:
    """When each file was last written, without those that SQLite's readers share."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {path: path.stat().st_mtime_ns for path in files}
