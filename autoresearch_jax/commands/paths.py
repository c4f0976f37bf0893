"""Paths that a user names, or leaves out: `~`, and the folder of all caches."""

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from autoresearch_jax.errors import UsageError

CACHE_NAME = "autoresearch_jax"


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
    """A folder for temporary files that nobody else can write to, since what is in it is executed."""
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
