"""A hub on loopback: metadata, redirects to a storage of another origin, range requests, etags; and its bad days.

with Hub("karpathy/tinystories-gpt4-clean", {"tinystories_gpt4_clean.parquet": content}) as hub:
    hub.faults["tinystories_gpt4_clean.parquet"] = [Cut(1000), Status(503)]
    subprocess.run([..., "prepare", "--corpus=tinystories"], env=hub.environment(tmp_path / "home"))
"""

import contextlib
import hashlib
import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Status:
    """An answer of this status in place of the file."""

    code: int
    retry_after: int | None = 0


@dataclass(frozen=True)
class Silence:
    """No answer for so many seconds, and none then."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """The connection ends after so many bytes of the answer."""

    after: int


@dataclass(frozen=True)
class Truncated:
    """The storage has lost the end of the file, and does not know."""

    size: int


@dataclass(frozen=True)
class Flipped:
    """One byte is another."""

    at: int = 0


@dataclass(frozen=True)
class Drip:
    """The answer comes in small pieces, with so many seconds between them."""

    size: int
    seconds: float


@dataclass(frozen=True)
class Whole:
    """The file comes from its start, whatever range was asked for, and ends after so many bytes if that is said."""

    cut_after: int | None = None


Fault = Status | Cut | Truncated | Flipped | Drip | Whole


@dataclass(frozen=True)
class Request:
    """What a client asked for: where, which range, and with which token."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class Hub:
    """A hub with one dataset, whose files lie on a second server.

    Attributes:
      files: content by name; may be changed while it runs.
      sha256: what the hub says of a file in place of the truth.
      faults: for a file, what happens to the next requests for its content.
      always: for a file, what happens once its faults are used up.
      metadata_faults: what happens to the next questions about the dataset.
      requests: all that were made, in order.
    """

    def __init__(self, repository: str, files: Mapping[str, bytes]) -> None:
        self.repository = repository
        self.files = dict(files)
        self.sha256: dict[str, str] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.metadata_faults: list[Status | Silence] = []
        self.requests: list[Request] = []
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self)) for _ in range(2)]

    @property
    def url(self) -> str:
        """Of the hub itself, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage(self) -> str:
        """Where it sends those who want a file."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables of a process whose hub it is, with a cache of its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {**inherited, "HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **more}

    def asked_for(self, name: str) -> list[Request]:
        """The requests for a file's content."""
        return [request for request in self.requests if request.path == f"/storage/{name}"]

    def sha256_of(self, name: str) -> str:
        """What the hub says it is."""
        return self.sha256.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nobody answers any more."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._note()
            path = urllib.parse.urlsplit(self.path).path
            if found := re.fullmatch(rf"/datasets/{hub.repository}/resolve/{COMMIT}/(.+)", path):
                self._redirect(found[1])
            elif (found := re.fullmatch(r"/storage/(.+)", path)) and found[1] in hub.files:
                self._send_file(found[1])
            elif path == f"/api/datasets/{hub.repository}/revision/main":
                self._answer_about({"id": hub.repository, "sha": COMMIT})
            else:
                self._send_json({"error": "not found"}, 404)

        def do_POST(self) -> None:
            self._note()
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.path == f"/api/datasets/{hub.repository}/paths-info/{COMMIT}":
                names = urllib.parse.parse_qs(body)["paths"]
                self._answer_about([self._info(name) for name in names if name in hub.files])
            else:
                self._send_json({"error": "not found"}, 404)

        def _info(self, name: str) -> dict[str, object]:
            size = len(hub.files[name])
            lfs = {"oid": hub.sha256_of(name), "size": size, "pointerSize": 133}
            return {"type": "file", "path": name, "size": size, "oid": "0" * 40, "lfs": lfs}

        def _redirect(self, name: str) -> None:
            self.send_response(302)
            self.send_header("Location", f"{hub.storage}/storage/{name}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(len(hub.files[name])))
            self.send_header("X-Linked-Etag", f'"{hub.sha256_of(name)}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send_file(self, name: str) -> None:
            waiting = hub.faults.get(name)
            fault = waiting.pop(0) if waiting else hub.always.get(name)
            if isinstance(fault, Status):
                self._send_json({"error": "try again"}, fault.code, fault.retry_after)
                return
            content = hub.files[name]
            if isinstance(fault, Truncated):
                content = content[: fault.size]
            if isinstance(fault, Flipped):
                content = content[: fault.at] + bytes([content[fault.at] ^ 1]) + content[fault.at + 1 :]
            start = 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and not isinstance(fault, Whole):
                start = int(wanted[1])
                if start >= len(content):
                    self._send_json({"error": "no such range"}, 416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{hub.sha256_of(name)}"')
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self._write(content[start:], fault)

        def _write(self, content: bytes, fault: Fault | None) -> None:
            end = fault.after if isinstance(fault, Cut) else fault.cut_after if isinstance(fault, Whole) else None
            if end is not None:
                self.wfile.write(content[:end])
                self.close_connection = True
                self.connection.close()
                return
            size = fault.size if isinstance(fault, Drip) else len(content)
            with contextlib.suppress(ConnectionError):  # of those who were killed
                for start in range(0, len(content), size):
                    self.wfile.write(content[start : start + size])
                    if isinstance(fault, Drip):
                        time.sleep(fault.seconds)

        def _answer_about(self, value: object) -> None:
            fault = hub.metadata_faults.pop(0) if hub.metadata_faults else None
            if isinstance(fault, Silence):
                time.sleep(fault.seconds)
                self.close_connection = True
            elif fault is not None:
                self._send_json({"error": "try again"}, fault.code, fault.retry_after)
            else:
                self._send_json(value)

        def _send_json(self, value: object, status: int = 200, retry_after: int | None = None) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if retry_after is not None:
                self.send_header("Retry-After", str(retry_after))
            self.end_headers()
            self.wfile.write(body)

        def _note(self) -> None:
            path = urllib.parse.urlsplit(self.path).path
            headers = self.headers
            hub.requests.append(Request(self.command, path, headers.get("Range"), headers.get("Authorization")))

        def log_message(self, format: str, *words: object) -> None:
            pass

    return Handler
