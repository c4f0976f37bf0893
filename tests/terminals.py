"""A terminal that tests look at: a pseudo-terminal, and what stands on its screen after what was written to it."""

import codecs
import os
import pty
import re
import select
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

_TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


@dataclass
class Terminal:
    """A pseudo-terminal of so many columns and lines.

    Attributes:
      stream: what programs write to.
      written: all that was written so far.
    """

    driver: int
    stream: TextIO
    columns: int = 0
    lines: int = 0
    written: str = field(default="", init=False)
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=codecs.getincrementaldecoder("utf-8"), init=False, repr=False
    )
    _rows: list[str] = field(default_factory=lambda: [""], init=False)
    _row: int = field(default=0, init=False)
    _column: int = field(default=0, init=False)

    def resize(self, columns: int, lines: int) -> None:
        self.read()
        self.columns, self.lines = columns, lines
        termios.tcsetwinsize(self.driver, (lines, columns))

    def read(self) -> str:
        """Takes in what was written; returns all of it."""
        new = b""
        while select.select([self.driver], [], [], 0.05)[0]:
            new += os.read(self.driver, 65536)
        text = self._decoder.decode(new)
        self._show(text)
        self.written += text
        return self.written

    def screen(self) -> list[str]:
        """The lines that stand there, also those that were scrolled away; a line that is too long wraps."""
        self.read()
        return [line.rstrip() for line in self._rows]

    def _show(self, written: str) -> None:
        rows = self._rows
        for number, command, back, down, text in _TOKEN.findall(written):
            if back:
                self._column = 0
            elif down:
                self._row += 1
            elif command == "A":
                self._row = max(self._row - int(number or 1), len(rows) - self.lines, 0)
            elif command == "K":
                rows[self._row] = ""
            for character in text:
                if self._column == self.columns:
                    self._row, self._column = self._row + 1, 0
                rows += [""] * (self._row + 1 - len(rows))
                line = rows[self._row]
                rows[self._row] = f"{line[: self._column]:<{self._column}}{character}{line[self._column + 1 :]}"
                self._column += 1
            rows += [""] * (self._row + 1 - len(rows))


@contextmanager
def terminal(columns: int = 100, lines: int = 24) -> Iterator[Terminal]:
    driver, end = pty.openpty()
    found = Terminal(driver, open(end, "w", encoding="utf-8"))  # noqa: SIM115, closed below
    found.resize(columns, lines)
    try:
        yield found
    finally:
        for close in (found.stream.close, lambda: os.close(driver)):
            with suppress(OSError):  # a test has closed it
                close()
