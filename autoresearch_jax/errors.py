"""Exceptions for mistakes of a user, shown as one line and without a traceback; the causes of an exception."""

from collections.abc import Iterator

NO_TEXT = (
    "the name of a file that is no text here: rename it to UTF-8, or set LC_ALL=C.UTF-8 where LC_ALL says otherwise"
)


class UserError(Exception):
    """Something that the user can mend; the message names the file, flag or line and the next step.

    Exit status 1 (the command failed). Subclass it for each kind of mistake.
    """

    exit_status = 1


class UsageError(UserError):
    """The command was called wrongly: a flag, a name or a value. Exit status 2."""

    exit_status = 2


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, its causes and contexts, and the members of groups among them, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting.append(current.__cause__)
        if not current.__suppress_context__:
            waiting.append(current.__context__)
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)
