"""A service that speaks Gemini's protocol on loopback, answering as a test scripts it, good or bad.

with GeminiServer([error(429, retry_seconds=1), answer(edits=[("LR = 0.5", "LR = 0.1")])]) as server:
    ...  # --gemini_base_url=server.url
    assert "# Experiment 1\n" in server.requests[0].text
"""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from autoresearch_jax.proposers.llm_budget import GeminiOptions

KEY = "AIza-a-key-that-nobody-may-see"
MODEL = "gemini-3.8-flash"
TOKEN = "ya29.a-token-of-the-fake-token-server"
_GENERATE = re.compile(
    r"/(?P<version>v\w+)/(?P<scope>.*?)models/(?P<model>[^/:]+):(generateContent|(?P<stream>streamGenerateContent\?alt=sse))"
)
_GET = re.compile(r"/(?P<version>v\w+)/(?P<scope>.*?)models/(?P<model>[^/:]+)")


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Role and text of each turn of the conversation."""
        return [
            (turn["role"], "".join(part.get("text", "") for part in turn["parts"])) for turn in self.body["contents"]
        ]

    @property
    def tool_results(self) -> list[str]:
        """What the client's tools answered so far, as JSON."""
        turns = self.body["contents"]
        found = [part["functionResponse"] for turn in turns for part in turn["parts"] if "functionResponse" in part]
        return [json.dumps(result["response"]) for result in found]

    @property
    def text(self) -> str:
        """The first turn, which is the brief."""
        return self.texts[0][1]

    @property
    def last(self) -> str:
        """The last turn, which may be what was wrong."""
        return self.texts[-1][1]


@dataclass(frozen=True)
class Step:
    """What the server does with one request.

    Attributes:
      status: of HTTP.
      body: what is sent.
      headers: beside Content-Length.
      length: what Content-Length says; the body's by default.
      drip: "body" or "headers": that part is sent a byte at a time, and never ends.
      before: called before anything is sent.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    drip: str = ""
    before: Callable[[], None] | None = None


Script = Callable[[Request], Step]


def answer(
    edits: Sequence[tuple[str, str]] = (),
    *,
    file: str | None = None,
    hypothesis: str = "a smaller step",
    category: str = "optimizer",
    effect: float = -0.01,
    usage: tuple[int, int, int] | None = (1000, 200, 50),
    finish: str = "STOP",
) -> Step:
    """A good answer; `usage` is of the prompt, the answer and the thinking before it."""
    words: dict[str, Any] = {"hypothesis": hypothesis, "category": category, "predicted_effect": effect}
    if edits:
        words["edits"] = [{"search": search, "replace": replace} for search, replace in edits]
    if file is not None:
        words["file"] = file
    return says(json.dumps(words), usage=usage, finish=finish)


def says(text: str, *, usage: tuple[int, int, int] | None = (1000, 200, 50), finish: str = "STOP") -> Step:
    """An answer with any text, after some thinking."""
    parts = [{"text": "Let me think.", "thought": True}, *([{"text": text}] if text else [])]
    return reply(
        {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}]}, usage
    )


def blocked(reason: str) -> Step:
    """The prompt was blocked; no candidate."""
    return reply({"promptFeedback": {"blockReason": reason}}, (1000, 0, 0))


def reply(body: Mapping[str, Any], usage: tuple[int, int, int] | None = None) -> Step:
    """Any JSON, with or without what it took."""
    body = dict(body)
    if usage is not None:
        given, made, thought = usage
        body["usageMetadata"] = {
            "promptTokenCount": given,
            "candidatesTokenCount": made,
            "thoughtsTokenCount": thought,
            "totalTokenCount": sum(usage),
        }
    return raw(json.dumps(body).encode())


def error(
    status: int,
    message: str = "out of order",
    *,
    retry_seconds: float | None = None,
    retry_after: str | None = None,
    reason: str | None = None,
) -> Step:
    """A failure as Google's services word them: with RetryInfo, a Retry-After header, or an ErrorInfo's reason."""
    details: list[dict[str, Any]] = []
    if reason is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason})
    if retry_seconds is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_seconds}s"})
    body = {"error": {"code": status, "message": message, "status": "SOME_STATUS", "details": details}}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Step(status, json.dumps(body).encode(), headers)


def raw(body: bytes, status: int = 200, **headers: str) -> Step:
    """Any bytes."""
    return Step(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def cut() -> Step:
    """The connection ends in the middle of the body."""
    whole = answer([("LR = 0.5", "LR = 0.1")])
    return Step(body=whole.body[: len(whole.body) // 2], length=len(whole.body))


def drip(part: str = "body", before: Callable[[], None] | None = None) -> Step:
    """A byte now and then, and never an end."""
    return Step(drip=part, before=before)


def calls(tool: str, **arguments: Any) -> Step:
    """The model calls one of its client's tools."""
    parts = [{"functionCall": {"name": tool, "args": arguments}}]
    return reply(
        {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}]}, (10, 5, 0)
    )


def _streamed(step: Step) -> Step:
    """An answer as a stream of one event."""
    return replace(step, body=b"data: " + step.body + b"\r\n\r\n", headers={"Content-Type": "text/event-stream"})


class GeminiServer:
    """The service; entered, it listens at `url` and serves one step a request of generateContent."""

    def __init__(
        self,
        steps: Sequence[Step | Script] | Script = (),
        *,
        models: Mapping[str, int] | None = None,
        on_get: Step | None = None,
    ) -> None:
        """Stores the script.

        Args:
          steps: one for each request, each a step or made of the request; or one that makes all of them.
          models: output token limit by name; `MODEL` alone by default.
          on_get: what a request for a model gets instead.
        """
        self._steps = steps
        self._models = {MODEL: 65_536} if models is None else models
        self._on_get = on_get
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self.requests: list[Request] = []  # of generateContent
        self.others: list[Request] = []  # for models and tokens
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def service_account(self, path: Path) -> Path:
        """Writes a service account's file whose tokens are made here, for application-default credentials."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        account = {
            "type": "service_account",
            "project_id": "a-project",
            "private_key_id": "1",
            "private_key": private.private_bytes(*encodings).decode(),
            "client_email": "robot@a-project.example",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(account))
        return path

    def step(self, request: Request) -> Step:
        """What a request gets; remembers the request."""
        if request.path == "/token":
            self.others.append(request)
            return raw(json.dumps({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}).encode())
        if (generate := _GENERATE.fullmatch(request.path)) is not None:
            with self._lock:
                number = len(self.requests)
                self.requests.append(request)
            refusal = self._refusal(request, generate)
            if refusal is not None:
                return refusal
            answered = self._scripted(number, request)
            return _streamed(answered) if generate["stream"] and answered.status == 200 else answered
        self.others.append(request)
        if (get := _GET.fullmatch(request.path)) is not None and request.body is None:
            if self._on_get is not None:
                return self._on_get
            name = f"models/{get['model']}"
            known = {"name": name, "outputTokenLimit": self._models.get(get["model"])}
            return self._refusal(request, get) or raw(json.dumps(known).encode())
        return error(404, f"no such path: {request.path}")

    def _scripted(self, number: int, request: Request) -> Step:
        if callable(self._steps):
            return self._steps(request)
        if number >= len(self._steps):
            return error(400, "the script has no step left")
        step = self._steps[number]
        return step if isinstance(step, Step) else step(request)

    def _refusal(self, request: Request, path: re.Match[str]) -> Step | None:
        if "publishers/" in path["scope"] and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "Request had invalid authentication credentials.")
        if path["model"] not in self._models:
            return error(404, f"models/{path['model']} is not found for API version {path['version']}.")
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.serve(None)

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.serve(json.loads(data) if data.startswith(b"{") else data.decode())

            def serve(self, body: Any) -> None:
                headers = {name.title(): value for name, value in self.headers.items()}
                step = server.step(Request(self.path, headers, body))
                self.close_connection = True
                with contextlib.suppress(OSError):  # the client has gone
                    self.perform(step)

            def perform(self, step: Step) -> None:
                if step.before is not None:
                    step.before()
                if step.drip == "headers":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    self.drip()
                    return
                self.send_response(step.status)
                length = 1 << 20 if step.drip else len(step.body) if step.length is None else step.length
                for name, value in {"Content-Type": "application/json", **step.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(step.body)
                if step.drip:
                    self.drip()

            def drip(self) -> None:
                while not server.closing.wait(0.01):
                    self.wfile.write(b" ")
                    self.wfile.flush()

            def log_message(self, format: str, *words: object) -> None:
                """Says nothing."""

        return Handler


def quick(server: GeminiServer, **changes: Any) -> GeminiOptions:
    """Options that reach the server and wait milliseconds between tries."""
    usual = {"key": KEY, "base_url": server.url, "first_wait_seconds": 0.001}
    return GeminiOptions(**{**usual, **changes})


def llm_dir(folder: Path) -> Callable[[int], Path]:
    """Folders for exchanges, made when they are asked for."""

    def place(experiment: int) -> Path:
        path = folder / f"{experiment:04d}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    return place
