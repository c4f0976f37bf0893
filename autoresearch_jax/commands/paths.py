"""Paths that a user names, or leaves out: `~`, names that are no text, and the folder of all caches."""

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from autoresearch_jax.errors import NO_TEXT, UsageError, UserError

CACHE_NAME = "autoresearch_jax"


def require_text(*paths: Path | None) -> None:
    """Refuses paths that no ledger or manifest could hold, before anything is written or measured.

    Raises:
      UserError: the name of one is no UTF-8, or this process does not read it so.
    """
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{path}: {NO_TEXT}") from error


def require_usable_name(flag: str, folder: Path, *, for_snapshots: bool = False) -> None:
    """Refuses a folder whose name a library that works in it does not take.

    Raises:
      UserError: it is one; the message names the character.
    """
    unusable = {os.pathsep: "Python's search path"}
    if for_snapshots:  # it looks for its parts by a pattern, which such a name becomes a part of
        unusable |= dict.fromkeys("*?[\\", "Orbax, which writes snapshots,")
    for character, what in unusable.items():
        if character in str(folder):
            raise UserError(f"{folder}: {what} takes no folder with {character} in its name: name another with {flag}")


def expand_home(flag: str, text: str) -> str:
    """A path, or a text that begins with one, with the home in place of a `~` at its beginning.

    Raises:
      UsageError: there is no such home.
    """
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded.startswith("~"):
        raise UsageError(f"--{flag}={text}: there is no home of that user: give the whole path, or ./{text}")
    return expanded


def home_folder() -> Path | None:
    """This user's home; None where there is none, as in containers: HOME is "/", or unset for an unknown user."""
    home = Path(os.path.expanduser("~"))
    return home if home.is_absolute() and home != Path("/") else None


def default_cache_dir(environment: Mapping[str, str]) -> Path:
    """The folder of all caches: in $XDG_CACHE_HOME, else in ~/.cache, else in a folder for temporary files.

    Raises:
      UsageError: there is none of these that is this user's alone.
    """
    named = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # as its specification has it
        return Path(named) / CACHE_NAME
    if (home := home_folder()) is not None:
        return home / ".cache" / CACHE_NAME
    return _own_temporary_folder()


def _own_temporary_folder() -> Path:
    """A folder for temporary files that only this user can write to: what is in it is executed."""
    folder = Path(tempfile.gettempdir()) / f"{CACHE_NAME}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        problem = f"{folder} cannot be made: {error.strerror}"
    else:
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return folder
        problem = f"others can write to {folder}"
    raise UsageError(f"there is no home folder for caches, and {problem}: name a folder with --cache_dir")
