"""The words of the red team: what an entry says of itself, and the edits of the tiny training file it is made of."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from tracing import edited

from autoresearch_jax.types import Budget, Scrutiny, Status

TINY_SOURCE = (Path(__file__).parent.parent / "tiny_train_lib.py").read_text()
NOTHING = "UNUSED = 1  # read by nothing"  # its line that makes room for other code
SECRET_NAME = "GEMINI_API_KEY"

# Placeholders in an entry's source, filled in by the arena.
MARK = "@MARK@"  # names whatever an entry leaves behind: files, processes
DATASET = "@DATASET@"  # folder of the dataset
REPOSITORY = "@REPOSITORY@"  # where the package lies
PORT = "@PORT@"  # of a listener on loopback
VAL_TABLE = "@VAL_TABLE@"  # which byte follows which in the validation text, see `Arena.val_table`
WEIGHTS = "@WEIGHTS@"  # what an honest trial with another seed has learnt, see `Arena.weights`

Edit = tuple[str, str]


@dataclass(frozen=True)
class Cheat:
    """A candidate that cheats or does harm.

    Attributes:
      source: a complete training file.
      status: what it must get. OK where the trick must turn out to be worth nothing.
      reason: regular expression that the reason must match; "" for OK.
      gains: for OK, "nothing" if the score is the honest one, "less" if it is a worse one.
      budget: the time box of its trial.
      limits: time limits of its trial, in seconds, by name.
      needs_cage: it succeeds where the sandbox is less than Landlock, which its documents say.
      scrutiny: how hard its trial is looked at; but for SEARCH beside the nats of an honest trial.
      or_status: what it may get as well, where it depends on the machine which of two limits it meets first.
    """

    name: str
    source: str
    status: Status
    reason: str = ""
    gains: str = "nothing"
    budget: Budget = field(default_factory=lambda: Budget(steps=30))
    limits: Mapping[str, float] = field(default_factory=dict)
    needs_cage: bool = False
    scrutiny: Scrutiny = Scrutiny.SEARCH
    or_status: Status | None = None


def rejected(name: str, source: str, reason: str) -> Cheat:
    """A cheat that is refused without a score."""
    return Cheat(name, source, Status.REJECTED, reason)


@dataclass(frozen=True)
class Variant:
    """An honest candidate, which must be `ok`; its training file is made when it is wanted."""

    name: str
    source: Callable[[], str]


def by_kind(kinds: Mapping[str, Sequence[Cheat | Variant]], fast: int = 1) -> list[ParameterSet]:
    """Parameters for a test: the first `fast` of each kind represent it in the fast suite, the others are slow."""
    return [
        pytest.param(entry, id=f"{kind}: {entry.name}", marks=[pytest.mark.slow] if place >= fast else [])
        for kind, entries in kinds.items()
        for place, entry in enumerate(entries)
    ]


def tiny(*edits: Edit) -> str:
    """The tiny training file with edits."""
    return edited(TINY_SOURCE, *edits)


def logits_plus(expression: str) -> str:
    """The tiny file whose `logits` adds something; `table` and `tokens` are in reach, `here` is what is honest."""
    return with_logits(f"return here + {expression}")


def with_logits(body: str) -> str:
    """The tiny file with another end of `logits`; `table`, `tokens` and the honest logits `here` are in reach."""
    start = 'table = state["table"]\nhere = table[tokens]\n'
    return tiny((indented('return state["table"][tokens]', 8), indented(start + textwrap.dedent(body).strip(), 8)))


def with_step(line: str) -> str:
    """The tiny file whose step begins with more lines."""
    return tiny(("        loss, gradient", indented(line, 8) + "\n        loss, gradient"))


def at_import(code: str) -> str:
    """The tiny file that does something when it is imported."""
    return tiny((NOTHING, textwrap.dedent(code).strip()))


def in_build(code: str) -> str:
    """The tiny file that does something in `build`."""
    return tiny(
        ("def build(task, mesh):\n", f"def build(task, mesh):\n{indented(textwrap.dedent(code).strip(), 4)}\n\n")
    )


def thief(loot: str) -> str:
    """The tiny file with a function `loot`, whose success shows in the score: it halves the learning rate."""
    return at_import(
        f"def loot():\n{indented(textwrap.dedent(loot).strip(), 4)}\n\n\n"
        "try:\n    found = loot()\nexcept Exception:\n    found = None\n"
        "if found:\n    LEARNING_RATE = 5.0"
    )


def indented(code: str, spaces: int) -> str:
    return textwrap.indent(code, " " * spaces)
