"""A file over HTTP: resumed where it broke off, tried again with back-off, and held to its SHA-256."""

import json
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, get_session

from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.tasks.lm.data.reporter import Reporter
from autoresearch_jax.tasks.lm.data.text_files import CorpusError

_FAILURES = 10  # in a row without a byte more, before a file is given up: minutes
_UNANSWERED = 6  # before a question is: about ten seconds
_DAMAGED = 3  # whole files with another SHA-256
_FIRST_WAIT_SECONDS = 0.5  # doubled after each failure
_LONGEST_WAIT_SECONDS = 60.0
_WORTH_ANOTHER_TRY = {408, 425, 429}  # and all from 500
_PARTIAL_CONTENT, _NO_SUCH_RANGE = 206, 416


class Stopped(Exception):
    """Another file failed, or the user has had enough."""


class Unreachable(Exception):
    """The hub gives no answer, however often it is asked."""


class Refused(Exception):
    """The hub answers with an error.

    Attributes:
      status: of HTTP.
      retry_after: what its header of that name says, if there is one.
    """

    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"the hub answers {status}")
        self.status = status
        self.retry_after = retry_after

    @property
    def may_change(self) -> bool:
        """Whether asking again can help."""
        return self.status in _WORTH_ANOTHER_TRY or self.status >= 500


class _Damaged(Exception):
    """What came is not what the hub says the file is."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub describes it.

    Attributes:
      name: in its repository.
      size: in bytes.
      sha256: in hexadecimal.
    """

    name: str
    size: int
    sha256: str


def download(
    url: str,
    file: RemoteFile,
    partial: Path,
    target: Path,
    *,
    headers: dict[str, str],
    reporter: Reporter,
    stop: threading.Event,
) -> None:
    """Brings a file here, in as many tries as make progress.

    Args:
      url: of the file.
      file: what it must turn out to be.
      partial: gets what has come so far, and may hold what an earlier call left; only one caller at a time.
      target: gets the file when it is whole.
      headers: of the request, such as a token.
      reporter: told of each byte, those that were there before included.
      stop: ends it between two chunks.

    Raises:
      CorpusError: it cannot be had.
      Stopped: `stop` was set.
      OSError: it cannot be written.
    """
    counted = _Counted(reporter)
    failures = damaged = 0
    furthest = size_of(partial)
    while True:
        retry_after = None
        try:
            _get_rest(url, file, partial, headers, counted, stop)
            if sha256_of_file(partial) == file.sha256:
                break
            raise _Damaged("its SHA-256 is not the hub's")
        except _Damaged as error:
            partial.unlink(missing_ok=True)
            counted.set(0)
            damaged += 1
            reason = str(error)
            reporter.note(f"{file.name}: {reason}")
        except Refused as error:
            reason = str(error)
            if not error.may_change:
                raise CorpusError(
                    f"{file.name} cannot be fetched ({reason}): check HF_ENDPOINT, and your token if you have one"
                ) from error
            failures += 1
            retry_after = error.retry_after
        except httpx2.RequestError as error:
            reason = in_words(error)
            size = size_of(partial)
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
        if damaged >= _DAMAGED:
            raise CorpusError(f"{file.name} came {damaged} times, and {reason}: check HF_ENDPOINT, or try another day")
        if failures >= _FAILURES:
            raise CorpusError(f"{file.name} cannot be fetched ({reason}): what has come is kept, so call again later")
        if stop.wait(_wait_seconds(max(0, failures - 1), retry_after)):
            raise Stopped
    partial.replace(target)


def ask(method: str, url: str, headers: dict[str, str], **options: Any) -> Any:
    """The hub's answer to a short question, from JSON; asked again while that is worth it.

    Raises:
      Unreachable: it gives none.
      Refused: it refuses.
      ValueError: the answer is no JSON.
    """
    pause = threading.Event()
    reason, retry_after = "", None
    for failures in range(_UNANSWERED):
        if failures:
            pause.wait(_wait_seconds(failures - 1, retry_after))
        try:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            response = get_session().request(method, url, headers=headers, timeout=timeout, **options)
            if not response.is_success:
                raise Refused(response.status_code, response.headers.get("Retry-After"))
            return json.loads(response.content)
        except Refused as error:
            if not error.may_change:
                raise
            reason, retry_after = str(error), error.retry_after
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:  # it will be no better the next time
            reason = in_words(error)
            break
        except httpx2.RequestError as error:
            reason, retry_after = in_words(error), None
    raise Unreachable(
        f"no hub can be reached at {constants.ENDPOINT} ({reason}): check the connection, and HF_ENDPOINT if you set it"
    )


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def in_words(error: Exception) -> str:
    """What an error says in one line, or else its name."""
    return str(error).partition("\n")[0] or type(error).__name__


def _get_rest(
    url: str,
    file: RemoteFile,
    partial: Path,
    headers: dict[str, str],
    counted: "_Counted",
    stop: threading.Event,
) -> None:
    """Appends to `partial` what it lacks; what came before the connection broke stays in it."""
    have = size_of(partial)
    if have > file.size:
        raise _Damaged("more has come than there is")
    counted.set(have)
    if have == file.size:
        return
    headers = headers | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        if response.status_code == _NO_SUCH_RANGE:  # the storage has less of it than came before
            raise _Damaged("it has another length")
        if not response.is_success:
            raise Refused(response.status_code, response.headers.get("Retry-After"))
        # in pieces as they come, and unbuffered: what is here is on the disk, whatever happens next
        with partial.open("ab", buffering=0) as output:
            if response.status_code != _PARTIAL_CONTENT:  # all of it, whatever was asked for
                output.truncate(0)
                have = 0
            for piece in response.iter_bytes():
                output.write(piece)
                have += len(piece)
                counted.set(have)
                if stop.is_set():
                    raise Stopped
                if have > file.size:
                    raise _Damaged("more has come than there is")
    if have < file.size:
        raise httpx2.RemoteProtocolError(f"it ended after {have} of {file.size} bytes")


class _Counted:
    """Bytes of one file, told to a reporter that counts those of all."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._told = 0

    def set(self, size: int) -> None:
        """So many are here now."""
        self._reporter.advance(size - self._told)
        self._told = size


def _wait_seconds(failures: int, retry_after: str | None) -> float:
    """How long to wait after so many earlier failures in a row; what the server asks for, within reason."""
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), _LONGEST_WAIT_SECONDS)
    # drawn, so that many machines that failed together do not come back together
    return min(_FIRST_WAIT_SECONDS * 2**failures, _LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)
