"""One thing that `autoresearch doctor` looked at, and sections of them that no failing check ends."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_jax.errors import UserError
from autoresearch_jax.sanitize import clean_line, redact

MOST_CHARACTERS = 2000  # of a line: what helps must not be cut, and only messages of others are this long
LOOK = "see to what it says"
_ASK_DOCTOR = re.compile("[;:,] `autoresearch doctor`[^;:,]*")  # what other commands say of this one


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      name: what.
      outcome: in a word or two.
      is_ok: whether a run may rely on it.
      remedy: what helps, None where nothing is to be done.
    """

    name: str
    outcome: str
    is_ok: bool = True
    remedy: str | None = None

    @property
    def line(self) -> str:
        """The outcome, with what helps."""
        return self.outcome if self.remedy is None else f"{self.outcome}; {self.remedy}"


def look_at(section: str, checks: Callable[[], Iterable[Check]], secrets: Collection[str]) -> list[Check]:
    """Everything in a section; a check that fails itself becomes the last line of it.

    Args:
      section: its name.
      checks: yields what it finds, one by one.
      secrets: blanked out wherever one turns up.
    """
    found: list[Check] = []
    try:
        for check in checks():
            found.append(check)
    except UserError as error:
        found.append(refusal(f"{section}_failed", error))
    except Exception as error:
        print(redact(traceback.format_exc(), secrets), file=sys.stderr)
        remedy = "a fault of doctor's own: please report it, with what stands on standard error"
        found.append(Check(f"{section}_failed", f"{type(error).__name__}: {error}", is_ok=False, remedy=remedy))
    return [_clean(check, secrets) for check in found]


def refusal(name: str, error: UserError) -> Check:
    """The line for a mistake whose message ends with what helps, after its last colon."""
    what, _, remedy = str(error).rpartition(": ")
    return Check(name, what or str(error), is_ok=False, remedy=remedy if what else LOOK)


def reason(error: Exception) -> str:
    """What is wrong, in the system's words and without the path, which the line names already."""
    return (isinstance(error, OSError) and error.errno and os.strerror(error.errno)) or str(error) or repr(error)


def shown(path: Path) -> str:
    """A path as one would type it: from the present folder, or from home, where it is in one of these."""
    for name, folder in ((".", os.getcwd()), ("~", os.path.expanduser("~"))):
        if path.is_absolute() and path.is_relative_to(folder):
            return f"{name}/{path.relative_to(folder)}".removesuffix("/.")
    return str(path)


def _clean(check: Check, secrets: Collection[str]) -> Check:
    def clean(text: str) -> str:
        return clean_line(_ASK_DOCTOR.sub("", redact(text, secrets)), limit=MOST_CHARACTERS)

    return replace(check, outcome=clean(check.outcome), remedy=None if check.remedy is None else clean(check.remedy))
