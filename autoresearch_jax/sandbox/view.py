"""What a confined Python sees of the file system: itself, its packages, shared libraries. Nothing of the user's."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import autoresearch_jax

_LIBRARY_FOLDERS = ("/lib64", "/usr/lib64")
_LIBRARY_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
# Standard libraries, in the text that they are split from into training and validation data.
_HIDDEN_NAMES = ("python*", "pypy*")
READABLE_DEVICES = ("/dev/zero", "/dev/random", "/dev/urandom")
WRITABLE_DEVICES = ("/dev/null",)


@dataclass(frozen=True)
class View:
    """What a confined process may read and execute.

    Attributes:
      interpreter: the Python to run.
      readable: files and folders, absolute, links resolved.
      hidden: folders in those that it may not, except for what of `readable` lies deeper.
      import_path: folders and archives for PYTHONPATH, the standard library's in front.
      python_home: for PYTHONHOME.
    """

    interpreter: str
    readable: tuple[Path, ...]
    hidden: tuple[Path, ...]
    import_path: tuple[Path, ...]
    python_home: str

    def allowed(self) -> Iterator[str]:
        """`readable` without what is hidden, as paths that stand for all that is in them."""
        for path in self.readable:
            yield from self._expand(path)

    def _expand(self, path: Path) -> Iterator[str]:
        if path in self.hidden:
            return
        if not any(hidden.is_relative_to(path) for hidden in self.hidden):
            yield str(path)
            return
        for child in path.iterdir():
            yield from self._expand(child)


def python_view(standard_library: Path, environment: Mapping[str, str]) -> View:
    """The view of a process that runs this Python with its packages and ours.

    Args:
      standard_library: an archive or folder of the compiled standard library.
      environment: of this process; its LD_LIBRARY_PATH counts.
    """
    interpreter = Path(sys.executable).resolve()
    extensions = _existing(path for path in sys.path if Path(path).name == "lib-dynload")
    packages = _existing(path for path in sys.path if Path(path).name in _PACKAGE_FOLDERS)
    folders = _library_folders()
    hidden = {path.resolve() for folder in folders for name in _HIDDEN_NAMES for path in folder.glob(name)}
    files = [*_existing(_LIBRARY_FILES), *_named_libraries(environment.get("LD_LIBRARY_PATH", ""))]
    readable = {interpreter, standard_library, package_root(), *extensions, *packages, *folders, *files}
    return View(
        interpreter=str(interpreter),
        readable=tuple(sorted(readable)),
        hidden=tuple(sorted(path for path in hidden if path.is_dir())),
        import_path=(standard_library, *extensions, *packages),
        python_home=sys.base_prefix,
    )


def package_root() -> Path:
    """Folder of `autoresearch_jax`, and of nothing else: what lies beside it is the user's."""
    return Path(autoresearch_jax.__file__).resolve().parent


def _library_folders() -> list[Path]:
    """Where the loader finds shared libraries."""
    folders = [*_LIBRARY_FOLDERS, *map(str, Path("/usr/lib").glob("*-linux-*"))]  # Debian's name for a machine
    if len(folders) == len(_LIBRARY_FOLDERS):  # another system's, with all of them in one folder
        folders.append("/usr/lib")
    if sys.base_prefix != "/usr":
        folders.append(f"{sys.base_prefix}/lib")
    return _existing(folders)


def _named_libraries(library_path: str) -> list[Path]:
    """The libraries in the folders of an LD_LIBRARY_PATH; those may hold other things, which are nobody's business."""
    folders = [Path(path) for path in library_path.split(":") if path.startswith("/")]
    return _existing(str(path) for folder in folders if folder.is_dir() for path in folder.glob("*.so*"))


def _existing(paths: Iterable[str]) -> list[Path]:
    """The paths that exist, resolved, each once, in their order."""
    return list(dict.fromkeys(Path(path).resolve() for path in paths if os.path.exists(path)))
