"""The HTTP client below google-genai: bodies have a cap, and a request can be given up at any moment, whoever drips."""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import httpx2

MAX_BODY_BYTES = 16 << 20
CONNECT_SECONDS = 30.0
CHARGED_STATUS = 200  # the one with which a service says that it has computed something
THREAD = "request to gemini"
# Sent uncompressed, a body is as long as it says; a compressed one may be a thousand times longer once it is read.
_PLAIN = {"Accept-Encoding": "identity"}
_THIS_MACHINE = ("all://127.0.0.1", "all://localhost", "all://[::1]")  # reached directly, whatever proxy others are

T = TypeVar("T")


class GivenUp(Exception):
    """The request was given up: its time is over."""


class Closed(Exception):
    """The client was closed."""


class BodyRefused(Exception):
    """The body of an answer was not read to its end; the message says why."""


class Call(Generic[T]):
    """A request in a thread of its own, and how it is cut off there.

    Attributes:
      may_cost: True if the service may have computed an answer: the request was sent, and no other status than 200 has
        come back. Holds for good once `BoundedClient.run` is over.
      over: set when the work has ended.
      result: of the work, if it has one.
      error: that the work raised.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        """Stores what is to be done; `BoundedClient.run` does it."""
        self._work = work
        self._cut = threading.Event()
        self._sending = threading.Lock()
        self.may_cost = False
        self._sockets: list[socket.socket] = []
        self.over = threading.Event()
        self.result: list[T] = []
        self.error: Exception | None = None

    def run(self) -> None:
        """Does the work, for the thread that waits for `over`."""
        try:
            self.result.append(self._work())
        except Exception as error:
            self.error = error
        finally:
            self.over.set()

    def check(self) -> None:
        """Ends the request from inside if it was cut off.

        Raises:
          GivenUp: it was.
        """
        if self._cut.is_set():
            raise GivenUp

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Takes note of each socket; called by the HTTP library at every step but those within a body."""
        stream = info.get("return_value")
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")) and stream is not None:
            self._sockets.append(stream.get_extra_info("socket"))
        if event.endswith(".send_request_headers.started") and not _to_proxy(info):
            with self._sending:  # once it is cut off, either this stands or nothing is sent
                self.check()
                self.may_cost = True
        elif event.endswith(".receive_response_headers.complete"):
            with self._sending:
                if not self._cut.is_set() and info["return_value"][1] != CHARGED_STATUS:
                    self.may_cost = False
        self.check()

    def cut(self) -> None:
        """Cuts the request off, from another thread."""
        with self._sending:
            self._cut.set()
        for place in list(self._sockets):
            # Not closed: the number of a closed socket may be another file's by the time that the thread reads from it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(place, socket.SHUT_RDWR)


class BoundedClient(httpx2.Client):
    """Answers are read here, whole and within the cap; redirects are not followed, or the key would go along."""

    def __init__(self) -> None:
        """Makes a client without a request."""
        # A connection is used once: its socket is seen when it is opened.
        limits = httpx2.Limits(max_keepalive_connections=0)
        direct = dict.fromkeys(_THIS_MACHINE)
        super().__init__(headers=_PLAIN, follow_redirects=False, limits=limits, mounts=direct)
        self._here = threading.local()
        self._calls: set[Call[Any]] = set()
        self._closing = threading.Event()

    def run(self, call: Call[T], seconds: float) -> T:
        """Does some work whose requests go through this client, in a thread of its own.

        Args:
          call: what to do, once; whatever it raises is raised here.
          seconds: when it is given up. The thread is left behind: it may be looking up a name, or be at a token server,
            where nothing reaches it, but it does not send its request any more.

        Raises:
          GivenUp: the time was over.
          Closed: the client was closed meanwhile, or before.
        """
        self._calls.add(call)
        try:
            if self._closing.is_set():
                raise Closed
            threading.Thread(target=self._do, args=(call,), name=THREAD, daemon=True).start()
            in_time = call.over.wait(seconds)
            if self._closing.is_set():
                raise Closed
            if not in_time:
                raise GivenUp
        finally:
            call.cut()
            self._calls.discard(call)
        if call.error is not None:
            raise call.error
        return call.result[0]

    def _do(self, call: Call[Any]) -> None:
        self._here.call = call
        call.run()

    def wait(self, seconds: float) -> None:
        """Sleeps, unless the client is closed.

        Raises:
          Closed: it was.
        """
        if self._closing.wait(seconds):
            raise Closed

    def shut(self) -> None:
        """Ends what is under way, from any thread, for good."""
        self._closing.set()
        for call in list(self._calls):
            call.cut()
            call.over.set()

    def send(self, request: httpx2.Request, **arguments: Any) -> httpx2.Response:
        """As the library's, for a request within `run`; the response has been read."""
        call: Call[Any] = self._here.call
        call.check()
        request.extensions["trace"] = call.trace
        timeouts = request.extensions.get("timeout") or {}
        timeouts["connect"] = min(CONNECT_SECONDS, timeouts.get("connect") or CONNECT_SECONDS)
        request.extensions["timeout"] = timeouts
        response = super().send(request, **{**arguments, "stream": True})
        try:
            body = _read(response, call.check)
        finally:
            response.close()
        return httpx2.Response(response.status_code, headers=response.headers, content=body, request=request)


def _to_proxy(info: Mapping[str, Any]) -> bool:
    """True of the request that opens a way through a proxy, which the service does not see."""
    return bool(info["request"].method == b"CONNECT")


def _read(response: httpx2.Response, check: Callable[[], None]) -> bytes:
    """The body.

    Raises:
      BodyRefused: it is compressed, which was not asked for, or larger than the cap.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise BodyRefused("the answer is compressed, which was not asked for")
    chunks, size = [], 0
    for chunk in response.iter_raw():
        check()
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BodyRefused(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB")
        chunks.append(chunk)
    return b"".join(chunks)
