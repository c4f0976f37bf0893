"""Search/replace blocks out of an agent's free text, for agents that cannot be asked for structured output."""

import re

from autoresearch_jax.proposers.edit_places import Reason
from autoresearch_jax.proposers.edits import Edit, EditError, Problem, unfenced, unix_lines

_SEARCH = re.compile(r"[ \t]*<{5,} ?SEARCH\b.*")
_DIVIDER = re.compile(r"[ \t]*={5,}[ \t]*")
_REPLACE = re.compile(r"[ \t]*>{5,} ?REPLACE\b.*")


def parse_blocks(text: str) -> list[Edit]:
    """The edits of a text, in their order; what stands around the blocks is ignored.

    A block is, with or without a Markdown fence around it or around either half,

        <<<<<<< SEARCH
        lines as they stand
        =======
        lines to stand there instead
        >>>>>>> REPLACE

    Raises:
      EditError: there is no block, or a marker is missing or too many; it names each such line of the text.
    """
    edits: list[Edit] = []
    problems: list[Problem] = []
    number = opened = divided = 0  # the block's number, and the lines of its markers; 0 outside of any

    def refuse(why: str) -> None:
        problems.append(Problem(number if opened else None, Reason.MALFORMED, why))

    lines = unix_lines(text).split("\n")
    for at, line in enumerate(lines, 1):
        if _SEARCH.fullmatch(line):
            if opened:
                refuse(f"line {at} of the answer opens a block in the one of line {opened}, which no REPLACE line ends")
            number, opened, divided = number + 1, at, 0
        elif _REPLACE.fullmatch(line):
            if not opened:
                refuse(f"line {at} of the answer ends a block that no SEARCH line begins")
            elif not divided:
                refuse(f"the block from line {opened} to {at} of the answer has no ======= line")
            elif divided > 0:
                halves = lines[opened : divided - 1], lines[divided : at - 1]
                edits.append(Edit(*(unfenced("".join(f"{line}\n" for line in half)) for half in halves)))
            opened = divided = 0
        elif opened and _DIVIDER.fullmatch(line):
            if divided > 0:
                refuse(
                    f"lines {divided} and {at} of the answer both divide one block; if one is text, give the whole file"
                )
            divided = -1 if divided else at
    if opened:
        refuse(f"the block from line {opened} of the answer on has no REPLACE line; was the answer cut off?")
    if not (edits or problems):
        refuse("the answer has no block; write <<<<<<< SEARCH, the old lines, =======, the new lines, >>>>>>> REPLACE")
    if problems:
        raise EditError(problems)
    return edits
