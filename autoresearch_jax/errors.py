"""The mistakes of a user, as exceptions: one clear line each, never a traceback."""


class UserError(Exception):
    """Something that the user can mend; the message names the file, flag or line and the next step.

    Exit status 1 (the command failed). Subclass it for each kind of mistake.
    """

    exit_status = 1


class UsageError(UserError):
    """The command was called wrongly: a flag, a name or a value. Exit status 2."""

    exit_status = 2
