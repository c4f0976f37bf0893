"""The server of a live page: on loopback, read only, with server-sent events. Starlette and uvicorn."""

import asyncio
import contextlib
import errno
import hashlib
import hmac
import ipaddress
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from autoresearch_jax.errors import UserError
from autoresearch_jax.report.feed import Event, RunFeed
from autoresearch_jax.report.page import asset, plotly_script

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOK_SECONDS = 0.05  # between two looks at the files, while somebody watches
SETTLE_SECONDS = 0.2  # after which a changed file is looked at again: its rows can be read once the disk has them
DRIVER_SECONDS = 1.0  # between two looks for the driver, whose death changes no file
PING_SECONDS = 15
END_SECONDS = 0.5  # that events may take to end when the server does
QUEUED_EVENTS = 200  # of one page; one that is so far behind is cut off, and loads again
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ServerError(UserError):
    """The page cannot be served; the message names the flag."""


class Broadcast:
    """Looks at a run while somebody watches, and tells all pages what is new."""

    def __init__(self, make_feed: Callable[[], RunFeed]) -> None:
        """Opens the feed in the thread that will read it."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self.feed = self._thread.submit(make_feed).result()
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self._someone = asyncio.Event()

    async def run(self) -> None:
        """Looks again and again; ends when it is cancelled."""
        loop = asyncio.get_running_loop()
        seen, due = self.feed.signature(), 0.0
        while True:
            await self._someone.wait()
            found = self.feed.signature()
            if found != seen or loop.time() >= due:
                due = loop.time() + (DRIVER_SECONDS if found == seen else SETTLE_SECONDS)
                seen = found
                self._tell(await self.on_thread(self.feed.look))
            await asyncio.sleep(LOOK_SECONDS)

    def _tell(self, events: list[Event]) -> None:
        for queue in self._queues:
            for event in events:
                if queue.full():
                    _end(queue)
                    break
                queue.put_nowait(event)

    async def on_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a method of the feed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def page(self) -> str:
        """The page as it is now."""
        self._tell(await self.on_thread(self.feed.look))
        return str(await self.on_thread(self.feed.page))

    async def events(self, state: str) -> AsyncIterator[dict[str, Any]]:
        """What a page is told, that was made at a state, until it is gone."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUED_EVENTS)
        self._queues.add(queue)
        try:
            self._tell(await self.on_thread(self.feed.look))
            for event in await self.on_thread(self.feed.events_since, state):
                yield _message(event)
            self._someone.set()
            while (told := await queue.get()) is not None:
                yield _message(told)
        finally:
            self._queues.discard(queue)
            if not self._queues:
                self._someone.clear()

    def end_events(self) -> None:
        """Ends what pages are told; they ask again."""
        for queue in self._queues:
            _end(queue)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _end(queue: "asyncio.Queue[Event | None]") -> None:
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(None)


def _message(event: Event) -> dict[str, Any]:
    return {**event, "data": json.dumps(event["data"], separators=(",", ":"))}


def make_app(broadcast: Broadcast, token: str | None) -> "Starlette":
    """The routes of the page.

    Args:
      token: what a request has to know; None for none.
    """
    from sse_starlette.sse import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Route

    async def page(request: "Request") -> "Response":
        return HTMLResponse(await broadcast.page())

    async def events(request: "Request") -> "Response":
        since = request.headers.get("last-event-id") or request.query_params.get("since", "")
        return EventSourceResponse(
            broadcast.events(since),
            ping=PING_SECONDS,
            headers={"Cache-Control": "no-store"},
            shutdown_grace_period=END_SECONDS,
        )

    async def plotly(request: "Request") -> "Response":
        return PlainTextResponse(
            plotly_script(), media_type="text/javascript", headers={"Cache-Control": "max-age=3600"}
        )

    async def script(request: "Request") -> "Response":
        return PlainTextResponse(asset("page.js"), media_type="text/javascript")

    @contextlib.asynccontextmanager
    async def lifespan(app: "Starlette") -> AsyncIterator[None]:
        task = asyncio.create_task(broadcast.run())
        try:
            yield
        finally:
            task.cancel()
            broadcast.close()

    paths = {"/": page, "/events": events, "/plotly.js": plotly, "/page.js": script}
    return Starlette(
        routes=[Route(path, endpoint) for path, endpoint in paths.items()],
        middleware=[Middleware(Guard, token=token)],
        lifespan=lifespan,
    )


class Guard:
    """Refuses requests that name another host or origin, or do not know the token; adds the headers of safety."""

    def __init__(self, app: App, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(headers, scope)
        if refusal is not None:
            await _answer(send, refusal[0], refusal[1], refusal[2])
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.lower().encode() not in there
                    ),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)

    def _refusal(self, headers: dict[str, str], scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """Status, words and headers of the answer to a request that is not let in; None for one that is."""
        host = headers.get("host", "")
        if self._token is None and not is_loopback(_hostname(host)):
            return 403, "this page answers to localhost only", {}
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "a page of another origin cannot read this one", {}
        if self._token is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        digest = hashlib.sha256(self._token.encode()).hexdigest()
        name = f"autoresearch-{digest[:8]}"  # a browser has the cookies of all ports of a host together
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return 303, "", {"Location": "/", "Set-Cookie": f"{name}={digest}; HttpOnly; SameSite=Strict; Path=/"}
        if hmac.compare_digest(_cookie(headers.get("cookie", ""), name).encode(), digest.encode()):
            return None
        return 403, "open this page with ?token=... as `autoresearch watch` printed it", {}


def _cookie(header: str, wanted: str) -> str:
    found = (pair.strip().partition("=") for pair in header.split(";"))
    return next((value for name, _, value in found if name == wanted), "")


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _answer(send: Send, status: int, words: str, more: dict[str, str]) -> None:
    headers = {"Content-Type": "text/plain; charset=utf-8", **HEADERS, **more}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": words.encode()})


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
      ServerError: the port is in use, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # the latter of a name with a label that is too long
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)
        is_no_name = isinstance(error, socket.gaierror | UnicodeError)
        if is_no_name or number == errno.EADDRNOTAVAIL:
            raise ServerError(f"--host={host}: is no address of this machine: {reason}") from error
        raise ServerError(f"--port={port}: cannot be listened on at {host}: {reason}: choose another --port") from error


def serve(app: "Starlette", broadcast: Broadcast, listening: socket.socket) -> None:
    """Answers requests until a signal ends it."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            broadcast.end_events()  # else they are cut off, and uvicorn says of each that it was an error
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, log_level="critical", access_log=False, timeout_graceful_shutdown=1, server_header=False, lifespan="on"
    )
    with contextlib.suppress(KeyboardInterrupt):  # it raises the signal again once it has ended
        Server(config).run(sockets=[listening])
