"""program.md while the loop runs: read again before each proposal, and never the end of a night."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoresearch_jax.engine.constants import ConstantValue
from autoresearch_jax.engine.program import Program, ProgramError, parse_program, read_page, read_program
from autoresearch_jax.proposers.space import Constant


class ProgramFile:
    """The last version of program.md that could be understood."""

    def __init__(self, path: Path) -> None:
        """Reads it for the first time.

        Raises:
          ProgramError: it is not there, or cannot be understood.
        """
        self._path = path
        self._program = read_program(path)
        self._complaints: tuple[str, ...] = ()

    @property
    def program(self) -> Program:
        """The last good version."""
        return self._program

    def refresh(
        self, constants: Mapping[str, ConstantValue], metric: str, complain: Callable[[str], None]
    ) -> Sequence[Constant]:
        """Reads the file again and returns the constants that may be moved.

        Args:
          constants: of the champion; rows that do not fit them are left out.
          metric: the task's; a page with a target for another one is not understood.
          complain: told once of each new problem; the last good version stays in force meanwhile.
        """
        broken: tuple[str, ...] = ()
        try:
            text = read_page(self._path)
            if text != self._program.text:
                program = parse_program(text, self._path)
                program.check_metric(metric)
                self._program = program
        except ProgramError as error:
            broken = (f"{error} (the version before stays in force)",)
        space, misfits = self._program.usable(constants)
        for complaint in (*broken, *misfits):
            if complaint not in self._complaints:
                complain(complaint)
        self._complaints = (*broken, *misfits)
        return space
