"""Standard streams that never end a command: one that is closed, full or gone drops what is written to it."""

import codecs
import errno
import io
import os
import sys
from typing import Any, TextIO

ENCODING_ERRORS = "autoresearch"  # what `codecs` calls our way with characters that an encoding lacks
_GONE = (errno.EPIPE, errno.EIO)  # the reader has seen enough, or the terminal was closed


class _Lasting(io.FileIO):
    """A file that drops all further output once something could not be written."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """As a file's, but raises nothing."""
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def make_streams_last() -> None:
    """Replaces this process's standard streams where they are its own, and not a test's."""
    _open_closed_ones()
    codecs.register_error(ENCODING_ERRORS, _replacement)
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def flush_output() -> str | None:
    """Writes what is left; returns why standard output could not be written, if its reader should know."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _Lasting) else None
    return None if failure is None or failure.errno in _GONE else f"standard output: {failure.strerror}"


def _open_closed_ones() -> None:
    """Opens what the caller has closed, so that no file of ours takes its number and gets what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _lasting(stream: TextIO, number: int) -> TextIO:
    """A stream that raises neither for what cannot be written nor for what its encoding lacks."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors=ENCODING_ERRORS)
    if stream is not (sys.__stdout__ if number == 1 else sys.__stderr__) or stream.fileno() != number:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(number, "wb", closefd=False)),
        encoding=stream.encoding,
        errors=ENCODING_ERRORS,
        line_buffering=stream.line_buffering or number == 2,
        write_through=stream.write_through,
    )


def _replacement(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is printed instead: the byte where a path has one that is no text, else a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = ord(error.object[error.start])
    return (bytes([character - 0xDC00]) if 0xDC80 <= character <= 0xDCFF else "?"), error.start + 1
