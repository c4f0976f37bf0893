"""A hub on loopback as `huggingface_hub` asks it: a tree, redirects to a storage of another origin; and its faults.

with Hub("karpathy/tinystories-gpt4-clean", {"tinystories_gpt4_clean.parquet": content}) as hub:
    hub.faults["tinystories_gpt4_clean.parquet"] = [Fault(cut=1000), Fault(flipped=True)]
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
class Fault:
    """What goes wrong when the content of a file is asked for.

    Attributes:
      status: this answer comes in place of the file.
      cut: the connection ends after so many bytes.
      size: the storage has lost the end of the file, and does not know.
      flipped: the first byte is another.
      drip: the answer comes in a hundred pieces, with so many seconds between them.
    """

    status: int = 200
    cut: int | None = None
    size: int | None = None
    flipped: bool = False
    drip: float = 0.0


@dataclass(frozen=True)
class Request:
    """What a client asked for, and with which token."""

    path: str
    authorization: str | None


class Hub:
    """A hub with one dataset, whose files lie on a second server.

    Attributes:
      files: content by name; may be changed while it runs.
      faults: for a file, what happens to the next requests for its content.
      always: for a file, what happens once its faults are used up.
      requests: all that were made, in order.
    """

    def __init__(self, repository: str, files: Mapping[str, bytes]) -> None:
        self.repository = repository
        self.files = dict(files)
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
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

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops to answer."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            path = self._note()
            found = re.fullmatch(rf"/datasets/{hub.repository}/resolve/{COMMIT}/(.+)", path)
            if found is None or found[1] not in hub.files:
                self._send_json({"error": "not found"}, 404)
                return
            content = hub.files[found[1]]
            self.send_response(302)
            self.send_header("Location", f"{hub.storage}/storage/{found[1]}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            path = self._note()
            if path.startswith("/storage/") and path.removeprefix("/storage/") in hub.files:
                self._send_file(path.removeprefix("/storage/"))
            elif path == f"/api/datasets/{hub.repository}/revision/main":
                self._send_json({"id": hub.repository, "sha": COMMIT})
            elif path == f"/api/datasets/{hub.repository}/tree/{COMMIT}":
                self._send_json([self._info(name) for name in hub.files])
            else:
                self._send_json({"error": "not found"}, 404)

        def _info(self, name: str) -> dict[str, object]:
            size = len(hub.files[name])
            lfs = {"oid": hashlib.sha256(hub.files[name]).hexdigest(), "size": size, "pointerSize": 133}
            return {"type": "file", "path": name, "size": size, "oid": "0" * 40, "lfs": lfs}

        def _send_file(self, name: str) -> None:
            waiting = hub.faults.get(name)
            fault = waiting.pop(0) if waiting else hub.always.get(name, Fault())
            if fault.status != 200:
                self._send_json({"error": "try again"}, fault.status)
                return
            content = hub.files[name][: fault.size]
            if fault.flipped:
                content = bytes([content[0] ^ 1]) + content[1:]
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            content = content[start:]
            with contextlib.suppress(ConnectionError):  # of those who were killed
                for piece in [content[: fault.cut]] if not fault.drip else _hundred(content):
                    self.wfile.write(piece)
                    time.sleep(fault.drip)
            if fault.cut is not None:
                self.close_connection = True
                self.connection.close()

        def _send_json(self, value: object, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _note(self) -> str:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            hub.requests.append(Request(path, self.headers.get("Authorization")))
            return path

        def log_message(self, format: str, *words: object) -> None:
            pass

    return Handler


def _hundred(content: bytes) -> list[bytes]:
    size = len(content) // 100 + 1
    return [content[start : start + size] for start in range(0, len(content), size)]
