"""What a confined Python sees of the file system: itself, its packages, shared libraries. Nothing of the user's.

The standard library is shown as one archive of compiled modules, without those of which the default corpus's val and
holdout are made.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import autoresearch_jax
from autoresearch_jax.sandbox.linux import FILTER_DESCRIPTOR, filter_program

_LIBRARY_FOLDERS = ("/lib64", "/usr/lib64")
_LIBRARY_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
# Standard libraries, in the text that they are split from into training and validation data.
_HIDDEN_NAMES = ("python*", "pypy*")
READABLE_DEVICES = ("/dev/zero", "/dev/random", "/dev/urandom")
WRITABLE_DEVICES = ("/dev/null",)
_NOBODY = "65534"
_TOP_LINKS = ("/lib", "/lib64", "/lib32", "/usr/lib64")  # on most systems links into /usr, where the loader looks
# Modules and packages of the standard library that are not shown; `tasks/lm/data/corpus.py` makes val and holdout of
# them. In Python 3.11 to 3.13, JAX, its libraries and other modules import none of them, except for windows, terminals,
# mail, FTP and XML-RPC, and none is frozen into the interpreter.
HIDDEN_MODULES = frozenset(
    {
        *("curses", "dbm", "ensurepip", "ftplib", "idlelib", "imaplib", "mailbox", "modulefinder", "pickletools"),
        *("poplib", "pyclbr", "shelve", "smtplib", "tabnanny", "tkinter", "trace", "turtle", "turtledemo", "venv"),
        *("wave", "xmlrpc", "zipapp"),
    }
)
# Folders that hold no module, or none that a training file imports.
_LEFT_OUT = {"__pycache__", "dist-packages", "lib-dynload", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}
_FORMAT = "2"  # counts up when what is written here changes
_HEADER_FLAGS = bytes(12)  # no source to compare with, so no time and no size


@dataclass(frozen=True)
class Mounts:
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


def python_mounts(standard_library: Path, environment: Mapping[str, str]) -> Mounts:
    """What a process may see that runs this Python with its packages and ours.

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
    return Mounts(
        interpreter=str(interpreter),
        readable=tuple(sorted(readable)),
        hidden=tuple(sorted(path for path in hidden if path.is_dir())),
        import_path=(standard_library, *extensions, *packages),
        python_home=sys.base_prefix,
    )


def readable_files() -> Iterator[Path]:
    """All files that a confined Python can read, except the archive of the standard library."""
    for top in python_mounts(package_root(), {}).allowed():  # in place of the archive a folder that is shown anyway
        if os.path.isfile(top):
            yield Path(top)
        for folder, _, names in os.walk(top):
            yield from (Path(folder, name) for name in names)


def is_hidden_module(module: Path) -> bool:
    """Whether a file, relative to the standard library's folder, belongs to one of `HIDDEN_MODULES`."""
    return module.parts[0].removesuffix(".py") in HIDDEN_MODULES


def package_root() -> Path:
    """Folder of `autoresearch_jax`, and of nothing else: what lies beside it is the user's."""
    return Path(autoresearch_jax.__file__).resolve().parent


@cache
def code_hash() -> str:
    """Hash of this package's sources."""
    found = hashlib.sha256()
    for path in sorted(package_root().rglob("*.py")):
        found.update(path.relative_to(package_root()).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


def _library_folders() -> list[Path]:
    """Where the loader finds shared libraries."""
    folders = [*_LIBRARY_FOLDERS, *map(str, Path("/usr/lib").glob("*-linux-*"))]  # Debian's name for a machine
    if len(folders) == len(_LIBRARY_FOLDERS):  # another system's, with all of them in one folder
        folders.append("/usr/lib")
    if sys.base_prefix != "/usr":
        folders.append(f"{sys.base_prefix}/lib")
    return _existing(folders)


def _named_libraries(library_path: str) -> list[Path]:
    """The libraries in the folders of an LD_LIBRARY_PATH, and not what else lies there."""
    folders = [Path(path) for path in library_path.split(":") if path.startswith("/")]
    return _existing(str(path) for folder in folders if folder.is_dir() for path in folder.glob("*.so*"))


def _existing(paths: Iterable[str]) -> list[Path]:
    """The paths that exist, resolved, each once, in their order."""
    return list(dict.fromkeys(Path(path).resolve() for path in paths if os.path.exists(path)))


def bubblewrap_argv(
    bwrap: str, mounts: Mounts, scratch: Path, argv: Sequence[str], *, cwd: Path | None = None, more: Sequence[str] = ()
) -> list[str]:
    """A command line that runs `argv` with everything but the mounts and `scratch` out of sight.

    Paths stay as they are outside, read-only; /tmp is a folder in `scratch`. No network, no other process. The filter
    of system calls is read from `FILTER_DESCRIPTOR`.

    Args:
      bwrap: path of the program.
      mounts: what can be seen.
      scratch: the folder that can be written to; resolved, with a folder "tmp" in it.
      argv: what to run.
      cwd: where; by default in `scratch`.
      more: further options of bubblewrap.
    """
    words = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"]
    words += ["--bind", str(scratch / "tmp"), "/tmp"]
    binds = [(path, ["--ro-bind", str(path), str(path)]) for path in mounts.readable]
    binds += [(path, ["--tmpfs", str(path)]) for path in mounts.hidden]
    binds += [(scratch, ["--bind", str(scratch), str(scratch)])]
    for _, bind in sorted(binds, key=lambda item: len(item[0].parts)):  # what lies deeper is seen in what hides it
        words += bind
    for hidden in mounts.hidden:
        words += ["--remount-ro", str(hidden)]
    for link in _TOP_LINKS:
        if os.path.islink(link):
            words += ["--symlink", os.readlink(link), link]
    words += ["--proc", "/proc"]
    for device in (*READABLE_DEVICES, *WRITABLE_DEVICES):
        words += ["--dev-bind", device, device]
    if filter_program() is not None:
        words += ["--seccomp", str(FILTER_DESCRIPTOR)]
    return [*words, *more, "--remount-ro", "/", "--chdir", str(cwd or scratch), "--", *argv]


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
        if is_hidden_module(name):
            continue
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
