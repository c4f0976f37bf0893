"""Who is told how far the preparation of a dataset is."""

from typing import Literal, Protocol

Unit = Literal["documents", "bytes"]


class Reporter(Protocol):
    """Told how far the work is; by several threads at once."""

    def note(self, text: str) -> None:
        """Something that people should know."""
        ...

    def stage(self, what: str, total: int | None, unit: Unit = "documents") -> None:
        """The next stage begins; it takes so many documents or bytes, None if that is not known."""
        ...

    def advance(self, amount: int = 1) -> None:
        """So much more of the stage is done; less than nothing when something has to be done again."""
        ...


class Silent:
    """A reporter that says nothing."""

    def note(self, text: str) -> None:
        pass

    def stage(self, what: str, total: int | None, unit: Unit = "documents") -> None:
        pass

    def advance(self, amount: int = 1) -> None:
        pass
