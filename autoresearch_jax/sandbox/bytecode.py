"""The standard library without its text: one archive of compiled modules, as Python's embeddable distribution has it.

The text is what the default corpus is made of. Who can read it knows the validation data.
"""

import contextlib
import hashlib
import importlib.util
import marshal
import os
import sys
import sysconfig
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

# What no training file imports, and what is no module.
_LEFT_OUT = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib-dynload",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
_FORMAT = "1"  # counts up when what is written here changes
_HEADER_FLAGS = bytes(12)  # no source to compare with, so no time and no size


def compiled_standard_library(cache_dir: Path) -> Path:
    """The archive for this Python, made in `cache_dir` if it is not there: some seconds, once.

    Docstrings and assertions are left out; names and other strings are not.
    """
    folder = Path(sysconfig.get_path("stdlib")).resolve()
    # the file that every Python's installation changes, and its place
    key = f"{_FORMAT} {sys.version} {folder} {(folder / 'os.py').stat().st_mtime_ns}"
    name = f"stdlib-{sys.implementation.cache_tag}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.zip"
    path = cache_dir.resolve() / name
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_dir, prefix=".stdlib-", delete=False) as file:
            try:
                with zipfile.ZipFile(file, "w") as archive:
                    _write_modules(archive, folder)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    return path


def _write_modules(archive: zipfile.ZipFile, folder: Path) -> None:
    for module in _modules(folder):
        name = module.relative_to(folder)
        with warnings.catch_warnings(), contextlib.suppress(SyntaxError):  # some are there to be wrong
            warnings.simplefilter("ignore")
            code = compile(module.read_bytes(), f"<stdlib>/{name}", "exec", dont_inherit=True, optimize=2)
            data = importlib.util.MAGIC_NUMBER + _HEADER_FLAGS + marshal.dumps(code)
            archive.writestr(str(name.with_suffix(".pyc")), data)


def _modules(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in _LEFT_OUT and not path.name.startswith("config-"):
            yield from _modules(path)
        elif path.suffix == ".py":
            yield path
