"""A server on loopback that speaks Google Cloud Storage's API (gcp-storage-emulator), and can be made to fail."""

import base64
import hashlib
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from unittest import mock

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"

Answer = int | str | None
"""What to do with a request: answer with this status; "cut" it in the middle; or answer as ever."""


class GcsServer:
    """One bucket, empty at first.

    Attributes:
      requests: method and path of each request so far.
      before: asked about each request before it is answered; a function is called to learn it, beside other requests.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.before: Callable[[str], Answer | Callable[[], Answer]] = lambda request: None
        self._storage = Storage(use_memory_fs=True)
        create_bucket(BUCKET, self._storage)
        self._one_at_a_time = threading.Lock()  # what the emulator is made for
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self, self._storage))
        self._server.daemon_threads = True

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which gcsfs finds it, and looks for nothing elsewhere."""
        host, port = self._server.server_address[:2]
        return {"STORAGE_EMULATOR_HOST": f"http://{host!s}:{port}", "NO_GCE_CHECK": "true"}

    def count(self, pattern: str) -> int:
        """How many requests there were that begin so."""
        return sum(re.match(pattern, request) is not None for request in self.requests)

    def names(self) -> list[str]:
        """All files of the bucket."""
        return sorted(file["name"] for file in self._storage.get_file_list(BUCKET)[0])

    def read(self, name: str) -> bytes:
        """What a file holds."""
        return self._storage.get_file(BUCKET, name)

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file behind everybody's back."""
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        file = {**self._storage.get_file_obj(BUCKET, name), "size": str(len(content)), "md5Hash": md5}
        self._storage.create_file(BUCKET, name, content, file)

    def remove(self, name: str) -> None:
        """Removes a file behind everybody's back."""
        self._storage.delete_file(BUCKET, name)

    @contextmanager
    def running(self) -> Iterator["GcsServer"]:
        """Serves inside, to this process and to its children."""
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        thread = threading.Thread(
            target=self._server.serve_forever, args=[0.02]
        )  # seconds until it sees that it shall end
        thread.start()
        try:
            with mock.patch.dict(os.environ, self.environment):
                yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def answer(self, handler: "_Handler", method: str) -> None:
        """Called by each request's thread."""
        request = f"{method} {handler.path}"
        with self._one_at_a_time:
            self.requests.append(request)
            answer = self.before(request)
        if callable(answer):
            answer = answer()
        if answer == "cut":
            handler.cut()
        elif isinstance(answer, int):
            handler.refuse(answer)
        else:
            with self._one_at_a_time:
                getattr(RequestHandler, f"do_{method}")(handler)


class _Handler(RequestHandler):
    def __init__(self, server: GcsServer, *arguments: object) -> None:
        self._gcs = server
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._gcs.answer(self, "GET")

    def do_POST(self) -> None:
        self._gcs.answer(self, "POST")

    def do_PUT(self) -> None:
        self._gcs.answer(self, "PUT")

    def do_DELETE(self) -> None:
        self._gcs.answer(self, "DELETE")

    def cut(self) -> None:
        """Hangs up in the middle: of what is sent here, or of what was asked for."""
        size = int(self.headers.get("Content-Length") or 0)
        if size:
            self.rfile.read(size // 2)
        else:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def refuse(self, status: int) -> None:
        """Answers with an error, as the real one words it."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b'{"error": {"code": %d, "message": "made to say so"}}' % status
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
