"""google-genai with a deadline: each attempt is recorded and read within limits, each failure is one of a few errors.

google-genai waits and tries again (its `HttpRetryOptions`); this module gives it up when the time of a call is over.
"""

import contextlib
import json
import logging
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import google.auth
import google.auth.exceptions
import httpx2
from google import genai
from google.genai import errors, types

from autoresearch_jax.errors import UserError
from autoresearch_jax.network import NetworkError, faulty_variable
from autoresearch_jax.proposers.base import LimitReached, ProposalFailed, ServiceDown
from autoresearch_jax.proposers.llm_budget import Exchange, GeminiOptions
from autoresearch_jax.sanitize import blanks, clean_line, clean_secret_line, redact, redact_value

API_VERSION = "v1beta"  # the documented one for response schemas; google-genai's own choice has changed before
PLACEHOLDER = "none"  # google-genai wants a key, a service of one's own may not
CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ATTEMPTS = 6  # of google-genai at a request, with waits of 1, 2, 4, 8 and 16 s between
RETRIED = (408, 429, *range(500, 600))
RETRY_SECONDS = 60.0  # when the loop asks again where the service did not say
KEY_SECONDS = 600.0  # the same where the key is refused: a person has to mend that
MAX_WAIT_SECONDS = 3600.0  # of what a server asks for
CONNECT_SECONDS = 30.0
MAX_BODY_BYTES = 16 << 20
CHARGED_STATUS = 200  # the one with which a service says that it has computed something
CLOSED = "closed while the model was asked"
THREAD = "request to gemini"
_THIS_MACHINE = ("all://127.0.0.1", "all://localhost", "all://[::1]")  # reached directly, past any proxy
_NOWHERE = logging.NullHandler()
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError, httpx2.PoolTimeout)


class Closed(ProposalFailed):
    """The proposer was closed while it asked."""


class NotLetIn(ServiceDown):
    """The service refuses the key or the credentials."""


class _AskAgain(httpx2.TimeoutException):
    """An attempt that brought no answer; google-genai tries again after a timeout, so it is one."""


class GeminiClient:
    """The service, reached by a key, application-default credentials or a base URL."""

    def __init__(self, options: GeminiOptions) -> None:
        """Makes the client; sends nothing.

        Raises UserError if there are no application-default credentials, and they are asked for; or a network variable
        is unusable.
        """
        _keep_off_the_terminal()
        self._options = options
        self._credentials = _credentials() if options.vertex_project is not None else None
        self._closed = threading.Event()
        self._results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._connect()

    def _connect(self) -> None:
        """Makes the client of HTTP and of google-genai; raises NetworkError if they cannot be made."""
        try:
            self._make_clients()
        except Exception as error:  # of httpx, ssl and google-genai, which read the user's variables
            said = clean_secret_line(str(error), self.secrets()) or type(error).__name__
            raise faulty_variable() or NetworkError(f"no client for the model can be made: {said}") from error

    def _make_clients(self) -> None:
        options, wait = self._options, self._options.first_wait_seconds
        self._http = _HttpClient(self._closed, self.secrets)
        http_options = types.HttpOptions(
            base_url=options.base_url,
            api_version=None if self._credentials is not None else API_VERSION,
            httpx_client=self._http,
            retry_options=types.HttpRetryOptions(
                attempts=ATTEMPTS, initial_delay=wait, jitter=wait, http_status_codes=list(RETRIED)
            ),
        )
        # All is said here, so that google-genai does not look for it in the environment.
        if self._credentials is None:
            self._genai = genai.Client(vertexai=False, api_key=options.key or PLACEHOLDER, http_options=http_options)
        else:
            self._genai = genai.Client(
                vertexai=True,
                credentials=self._credentials,
                project=options.vertex_project,
                location=options.vertex_location,
                http_options=http_options,
            )

    def secrets(self) -> Sequence[str]:
        """What must not be written anywhere, as it is now."""
        token = self._credentials.token if self._credentials is not None else None
        return list(blanks(secret for secret in (self._options.key, token, *self._options.secrets) if secret))

    def run(
        self, work: Callable[[genai.Client], Any], seconds: float, begin: Callable[[], Exchange] | None = None
    ) -> Any:
        """The result of a call of google-genai, made in a thread that is abandoned when the time is over.

        Args:
          work: the call.
          seconds: when it is given up.
          begin: makes the record of an attempt before it is sent; None for attempts that cost nothing.

        Raises:
          ProposalFailed: the service refused the request, or the client was closed.
          ServiceDown: there is no answer.
          LimitReached, ExchangeError: as `begin` does.
        """
        call = _Call(time.monotonic() + seconds, self._options.request_seconds, begin)
        results = self._results = queue.SimpleQueue()
        if self._http.is_closed and not self._closed.is_set():  # a variable that was unusable for a while
            self._reconnect()
        client, http = self._genai, self._http

        def do() -> None:
            http.here.call = call
            try:
                results.put((work(client), None))
            except Exception as error:
                results.put((None, error))

        result, error = None, None
        if not self._closed.is_set():
            threading.Thread(target=do, name=THREAD, daemon=True).start()
            with contextlib.suppress(queue.Empty):
                result, error = results.get(timeout=seconds)
        if result is not None and not self._closed.is_set():
            return result
        before = f"; before that: {call.failure}" if call.failure else ""
        reason = f"no whole answer within {seconds:.3g} s" if not self._closed.is_set() else CLOSED
        call.give_up(reason)
        if self._closed.is_set():
            raise Closed(reason) from error
        if error is not None:
            raise self._meaning(error) from error
        self._http.close()  # ends the thread even if the server drips on
        self._reconnect()
        raise ServiceDown(clean_line(reason + before), RETRY_SECONDS)

    def _reconnect(self) -> None:
        try:
            self._connect()
        except NetworkError as error:
            raise ServiceDown(str(error), KEY_SECONDS) from error

    def _meaning(self, error: Exception) -> Exception:
        """What an error of google-genai means to a proposer; the message is a clean line without secrets."""
        said = clean_secret_line(str(error), self.secrets()) or type(error).__name__
        match error:
            case LimitReached() | ProposalFailed() | ServiceDown() | UserError():
                return error
            case errors.APIError():
                reason = clean_secret_line(str(error.message or error.details or "no reason given"), self.secrets())
                said = f"the service says {error.code}: {reason}"
                if error.code in (401, 403) or (error.code == 400 and "API_KEY_INVALID" in str(error.details)):
                    return NotLetIn(said, KEY_SECONDS)
                return ServiceDown(said, RETRY_SECONDS) if error.code in RETRIED else ProposalFailed(said)
            case _AskAgain():
                return ServiceDown(said, RETRY_SECONDS)
            case google.auth.exceptions.TransportError():
                return ServiceDown(f"the token server cannot be reached: {said}", RETRY_SECONDS)
            case google.auth.exceptions.GoogleAuthError():
                return NotLetIn(f"application-default credentials: {said}", KEY_SECONDS)
        return ServiceDown(f"the service sent what is no answer: {said}", RETRY_SECONDS)

    def close(self) -> None:
        """Ends what is under way, from any thread, for good."""
        self._closed.set()
        self._results.put((None, None))
        self._http.close()


class _Call:
    """A call of google-genai: its deadline, and the record of the attempt that is under way."""

    def __init__(self, deadline: float, request_seconds: float, begin: Callable[[], Exchange] | None) -> None:
        self.deadline, self.request_seconds = deadline, request_seconds
        self.failure = ""  # of the last attempt that is over
        self._begin = begin
        self._exchange: Exchange | None = None
        self._lock = threading.Lock()
        self._is_given_up = False

    def start_attempt(self) -> None:
        """Writes it down; raises if the call was given up, or a limit is reached."""
        with self._lock:  # once the call is given up nothing is sent any more
            if self._is_given_up or time.monotonic() >= self.deadline:
                raise ServiceDown(self.failure or "the time of a proposal is over", RETRY_SECONDS)
            self._exchange = self._begin() if self._begin is not None else None

    def costs_nothing(self) -> None:
        """The attempt under way was refused or not sent."""
        if self._exchange is not None:
            self._exchange.may_cost = False

    def end_attempt(self, response: Any = None, failure: str | None = None) -> None:
        """Writes down what became of it."""
        self.failure = failure or ""
        if self._exchange is not None:
            self._exchange.end(response, failure)

    def give_up(self, why: str) -> None:
        """Ends it from another thread."""
        with self._lock:
            self._is_given_up = True
        if self._exchange is not None:
            self._exchange.end(error=why)


class _HttpClient(httpx2.Client):
    """What google-genai sends with: bodies have a cap and no secrets, and redirects are not followed with the key."""

    def __init__(self, closed: threading.Event, secrets: Callable[[], Sequence[str]]) -> None:
        super().__init__(follow_redirects=False, mounts=dict.fromkeys(_THIS_MACHINE))
        self.here = threading.local()  # .call: what the thread works for
        self._shut = closed
        self._secrets = secrets

    def send(self, request: httpx2.Request, **arguments: Any) -> httpx2.Response:
        """As the library's; one attempt, and the wait that the server asks for after it."""
        call: _Call = self.here.call
        call.start_attempt()
        timeouts = request.extensions.setdefault("timeout", {})
        timeouts["connect"] = min(CONNECT_SECONDS, timeouts.get("connect") or CONNECT_SECONDS)
        until = min(call.deadline, time.monotonic() + call.request_seconds)
        try:
            response = super().send(request, **{**arguments, "stream": True})
            with contextlib.closing(response):
                if response.status_code != CHARGED_STATUS:
                    call.costs_nothing()
                text = redact(_read(response, until).decode("utf-8", "replace"), self._secrets())
        except Exception as error:
            if isinstance(error, _NOT_SENT):
                call.costs_nothing()
            words = clean_secret_line(str(error), self._secrets()) or type(error).__name__
            reason = words if isinstance(error, _AskAgain) else f"the connection failed: {words}"
            call.end_attempt(failure=reason)
            raise _AskAgain(reason) from error
        try:
            value = redact_value(json.loads(text), self._secrets())  # JSON may have spelt a secret with escapes
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list) and len(value) == 1:  # as Google's services write some errors
            value = value[0]
        status, said = response.status_code, _said_error(value)
        if (
            status == CHARGED_STATUS and said is not None and said[0] is not None
        ):  # a gateway's status, not the service's
            status = said[0]
            call.costs_nothing()
        if status != CHARGED_STATUS:
            message = text if said is None else said[1]
            if not (
                isinstance(value, Mapping) and isinstance(value.get("error"), Mapping)
            ):  # google-genai reads no other
                value = {"error": {"code": status, "message": clean_line(message)}}
            call.end_attempt(failure=f"the service says {status}: {clean_line(message)}")
            if status in RETRIED:
                self._wait(call, wanted_wait(text, response.headers))
        elif not isinstance(value, Mapping) or said is not None:
            reason = "the service sent what is no answer"
            call.end_attempt(value, failure=reason if said is None else f"{reason}: {clean_line(said[1])}")
            raise _AskAgain(f"{reason}: {clean_line(text if said is None else said[1], 100)}")
        else:
            call.end_attempt(value)
        return httpx2.Response(status, content=json.dumps(value).encode(), request=request)

    def _wait(self, call: _Call, seconds: float | None) -> None:
        """Waits as long as the server asks for; raises ServiceDown if there is not the time, Closed if it is closed."""
        if seconds is not None and seconds >= call.deadline - time.monotonic():
            raise ServiceDown(call.failure, seconds)
        if self._shut.wait(seconds or 0.0):
            raise Closed(CLOSED)


def _keep_off_the_terminal() -> None:
    """Keeps what Google's libraries warn of and log off the terminal: what matters is said in our own words."""
    warnings.filterwarnings("ignore", module=r"google\.(auth|genai)\b|pydantic\b")
    for name in ("google", "google_genai"):  # without a handler Python prints what is logged
        logging.getLogger(name).addHandler(_NOWHERE)


def _said_error(value: Any) -> tuple[int | None, str] | None:
    """The status and message of an error body, also one sent with HTTP status 200; None for an answer."""
    if not isinstance(value, Mapping) or not value.get("error") or value.get("candidates"):
        return None
    error = value["error"]
    if not isinstance(error, Mapping):
        return None, str(error)
    code = error.get("code")
    is_status = type(code) is int and 400 <= code < 600
    return code if is_status else None, str(error.get("message") or error.get("status") or "no reason given")


def _read(response: httpx2.Response, until: float) -> bytes:
    """The body; raises _AskAgain if it is larger than the cap, or not there in time."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _AskAgain(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB")
        if time.monotonic() > until:
            raise _AskAgain("no whole answer within the time of a request")
    return bytes(body)


def wanted_wait(body: str, headers: Mapping[str, str]) -> float | None:
    """How many seconds a server wants to be left alone, by RetryInfo or Retry-After; None if it is silent."""
    found = re.findall(r'"retryDelay":\s*"(\d{1,18}(?:\.\d{1,18})?)s"', body)
    found += re.findall(r"^\s*(\d{1,18}(?:\.\d{1,18})?)\s*$", headers.get("Retry-After", ""))
    return max((min(float(seconds), MAX_WAIT_SECONDS) for seconds in found), default=None)


def milliseconds(seconds: float) -> int:
    """As google-genai takes a timeout."""
    return max(1, round(seconds * 1000))


def _credentials() -> Any:
    """Application-default credentials, which have no token yet; raises UserError if there are none."""
    try:
        credentials, _ = google.auth.default(scopes=[CLOUD_SCOPE])
    except google.auth.exceptions.GoogleAuthError as error:
        raise UserError(
            f"--gemini_vertex_project: no application-default credentials: {clean_line(str(error))}: run `gcloud auth "
            "application-default login`, or name a service account's file in GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    return credentials
