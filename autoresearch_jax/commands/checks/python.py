"""Which Python this is, and whether the packages are there that setup.cfg asks for. Loads none of them."""

import configparser
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import autoresearch_jax
from autoresearch_jax.commands.checks.check import Check

OLDEST = (3, 11)
FAST = (3, 12)  # the oldest that jax 0.12 runs with
# setup.sh leaves an environment alone that it has filled before, unless its stamp is gone
REINSTALL = "in the checkout: rm -f .venv/.installed-* && ./scripts/setup.sh"
REBUILD = "in the checkout: rm -rf .venv && ./scripts/setup.sh, with CPython {version} or newer on PATH"
PROJECT = "autoresearch_jax"
_MODULES = {  # where it is not the package's name
    "absl-py": "absl",
    "google-genai": "google.genai",
    "markdown-it-py": "markdown_it",
    "orbax-checkpoint": "orbax.checkpoint",
}


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Check]:
    """The interpreter, and the packages.

    Args:
      version: of Python, for tests.
    """
    name = f"{platform.python_implementation()} {_dotted(version)}"
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if free_threaded:
        name += ", free-threaded"
    if version < OLDEST or sys.implementation.name != "cpython" or free_threaded:
        yield Check("python", name, is_ok=False, remedy=REBUILD.format(version=_dotted(OLDEST)))
    elif version < FAST:
        helps = f"{_dotted(FAST)} gets jax 0.12, which is faster on a CPU: {REBUILD.format(version=_dotted(FAST))}"
        yield Check("python", name, remedy=helps)
    else:
        yield Check("python", name)
    try:
        wanted = requirements()
        missing = [problem for words in wanted if (problem := what_lacks(words)) is not None]
    except ImportError as error:  # of what reads versions, which comes with other packages
        yield Check("packages", str(error), is_ok=False, remedy=REINSTALL)
        return
    if missing:
        yield Check("packages", ", ".join(missing), is_ok=False, remedy=REINSTALL)
    else:
        yield Check("packages", f"{len(wanted)} of {len(wanted)} are there")


def requirements() -> list[str]:
    """What must be installed, such as "jax>=0.10.2": the checkout's setup.cfg may be newer than what pip saw."""
    settings = configparser.ConfigParser()
    settings.read(Path(autoresearch_jax.__file__).parent.parent / "setup.cfg", encoding="utf-8")
    if settings.get("metadata", "name", fallback=None) == PROJECT:
        return settings.get("options", "install_requires").split("\n")[1:]
    return [words for words in importlib.metadata.requires(PROJECT) or [] if ";" not in words]  # those are extras'


def what_lacks(requirement: str) -> str | None:
    """Why a requirement is not met, such as "optuna is not installed"; None if it is met."""
    from packaging.requirements import Requirement  # may be what is missing

    wanted = Requirement(requirement)
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} {version} is not {wanted.specifier}"
    module = _MODULES.get(wanted.name, wanted.name.replace("-", "_"))
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is part of
        found = False
    return None if found else f"{wanted.name} {version} is recorded, and its files are gone"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
