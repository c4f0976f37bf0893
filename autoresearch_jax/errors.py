"""The mistakes of a user, as exceptions: one clear line each, never a traceback; and what led to a failure."""

from collections.abc import Iterator


class UserError(Exception):
    """Something that the user can mend; the message names the file, flag or line and the next step.

    Exit status 1 (the command failed). Subclass it for each kind of mistake.
    """

    exit_status = 1


class UsageError(UserError):
    """The command was called wrongly: a flag, a name or a value. Exit status 2."""

    exit_status = 2


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, and whatever led to it, each once."""
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
