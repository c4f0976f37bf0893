"""Corpora: Python's standard library, the user's files, and datasets on the Hugging Face hub.

To add one, write a function that returns a `Corpus`, and a branch in `open_corpus`.
"""

import contextlib
import glob
import hashlib
import os
import platform
import re
import signal
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoresearch_jax.errors import UsageError
from autoresearch_jax.files import free_bytes, sha256_of_file, sha256_of_json
from autoresearch_jax.network import faulty_variable
from autoresearch_jax.sandbox.mounts import is_hidden_module
from autoresearch_jax.tasks.lm.data.text_files import (
    FORMATS,
    CorpusError,
    TextFile,
    TextFiles,
    can_read,
    name_of,
    unreadable,
)
from autoresearch_jax.tasks.lm.data.tokenizer import ORIGINAL, STANDARD, TextRules

STDLIB = "stdlib"
FILES = "files:"
CLIMBMIX = "climbmix"
TINYSTORIES = "tinystories"

VAL_SHARE = 0.04
HOLDOUT_SHARE = 0.04

# Tests, other packages, and (pydoc_data) a generated file of manual pages that is 7 % of the text
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}

# About 0.1 GB a shard, 60 million tokens
_CLIMBMIX_REPOSITORY = "karpathy/climbmix-400b-shuffle"
_VAL_SHARD = 6542  # pinned by the original
_HOLDOUT_SHARD = 6541  # the original trains on it, but only if all shards are there
_DEFAULT_SHARDS = 10  # the original's

# 0.7 GB, 2.7 million stories of about 700 characters
_TINYSTORIES_REPOSITORY = "karpathy/tinystories-gpt4-clean"
_TINYSTORIES_FILE = "tinystories_gpt4_clean.parquet"


class Reporter:
    """Receives the progress of a preparation; this one ignores it."""

    def note(self, text: str) -> None:
        """A line for the user."""

    def stage(self, what: str, total: int | None) -> None:
        """The next stage begins, with `total` documents; None if that is not known."""

    def advance(self) -> None:
        """One document of the stage is done."""


@dataclass(frozen=True)
class Corpus:
    """A source of documents."""

    spec: str  # the value of --corpus that gives it from any working directory
    name: str  # of its dataset's folder
    state: Callable[[], str]  # a hash that changes when the documents may have; takes milliseconds; raises CorpusError
    fetch: Callable[[Reporter], TextFiles]  # its files, downloaded if they are missing; raises CorpusError
    rules: TextRules = STANDARD


def open_corpus(spec: str, downloads: Path | None = None) -> Corpus:
    """The corpus that --corpus names.

    Args:
      spec: the value of --corpus.
      downloads: where files of the Hugging Face hub go; None for the place that `huggingface_hub` has for them.

    Raises:
      UsageError: there is no such corpus.
    """
    if spec == STDLIB:
        return _stdlib()
    if spec == TINYSTORIES:
        files: list[tuple[str, str | None]] = [(_TINYSTORIES_FILE, None)]
        return _on_the_hub(TINYSTORIES, TINYSTORIES, _TINYSTORIES_REPOSITORY, files, STANDARD, downloads)
    if spec == CLIMBMIX or spec.startswith(f"{CLIMBMIX}:"):
        return _climbmix(spec, downloads)
    if spec.startswith(FILES) and len(spec) > len(FILES):
        return _user_files(spec.removeprefix(FILES))
    raise UsageError(
        f"--corpus={spec}: there is no such corpus; use `{STDLIB}`, `{CLIMBMIX}`, `{TINYSTORIES}`, "
        f"or `{FILES}GLOB` for your own files"
    )


def split_of(digest: bytes) -> str:
    """The split of a document by its text's SHA-256; the same on every machine and in any order."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < VAL_SHARE:
        return "val"
    return "holdout" if position < VAL_SHARE + HOLDOUT_SHARE else "train"


def with_num_shards(spec: str, num_shards: int | None) -> str:
    """--corpus with the shards of --num_shards, if given; raises UsageError for a corpus without shards."""
    if num_shards is None:
        return spec
    if spec.partition(":")[0] != CLIMBMIX:
        raise UsageError(f"--num_shards={num_shards}: only --corpus={CLIMBMIX} has shards to choose from")
    return f"{CLIMBMIX}:{num_shards}"


def _on_this_machine(spec: str, name: str, find: Callable[[], TextFiles]) -> Corpus:
    def state() -> str:
        digest = hashlib.sha256()
        for path in (file.path for file in find().files):
            status = _status(path)
            digest.update(os.fsencode(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return digest.hexdigest()

    return Corpus(spec, name, state, lambda reporter: find())


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from error


def _stdlib() -> Corpus:
    """The .py files of the running Python's standard library; they differ between versions, and so does the name.

    Val and holdout are modules that the sandbox does not show.
    """
    root = Path(sysconfig.get_path("stdlib"))
    version = platform.python_version()

    def find() -> TextFiles:
        found = []
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [name for name in subfolders if name not in _NOT_STDLIB]
            found += [Path(folder, name) for name in names if name.endswith(".py")]
        if not found:
            raise CorpusError(f"there is no standard library below {root}: use --corpus=files:GLOB instead")
        description = {"python": version, "implementation": platform.python_implementation(), "folder": str(root)}
        return TextFiles(tuple(_split_library(root, found)), description)

    return _on_this_machine(STDLIB, f"stdlib-{version}", find)


def _split_library(root: Path, paths: Iterable[Path]) -> Iterator[TextFile]:
    """Files of the standard library with their splits, those of train last.

    Hidden modules, in the order of their names' SHA-256, go to val or holdout, to the one that lacks more, until both
    have their share of all bytes.
    """
    sizes = {path: _status(path).st_size for path in paths}
    lacking = {"val": VAL_SHARE * sum(sizes.values()), "holdout": HOLDOUT_SHARE * sum(sizes.values())}
    hidden = [path for path in sizes if is_hidden_module(path.relative_to(root))]
    for path in sorted(hidden, key=lambda path: hashlib.sha256(os.fsencode(path.relative_to(root))).digest()):
        split = max(lacking, key=lambda split: lacking[split])
        if lacking[split] > 0:
            lacking[split] -= sizes.pop(path)
            yield TextFile(path, split)
    yield from (TextFile(path, "train") for path in sorted(sizes))


def _user_files(pattern: str) -> Corpus:
    """The user's own files; the name is a hash of the absolute pattern."""
    pattern = os.path.abspath(os.path.expanduser(pattern))
    if name_of(Path(pattern)) != pattern:
        raise UsageError(f"--corpus={FILES}{name_of(Path(pattern))}: not UTF-8: use a * for the names that are not")

    def find() -> TextFiles:
        found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(name)]
        if not found:
            hint = f": it is a folder, so use {pattern}/*, or {pattern}/**" if os.path.isdir(pattern) else ""
            raise CorpusError(f"--corpus={FILES}{pattern}: no file matches{hint}")
        files = tuple(TextFile(path) for path in found if can_read(path))
        if not files:
            raise CorpusError(
                f"{name_of(found[0])}: only {FORMATS} can be read, and no file that matches --corpus is one"
            )
        return TextFiles(files, {"pattern": pattern}, tuple(path for path in found if not can_read(path)))

    name = f"files-{hashlib.sha256(os.fsencode(pattern)).hexdigest()[:8]}"
    return _on_this_machine(FILES + pattern, name, find)


def _climbmix(spec: str, downloads: Path | None) -> Corpus:
    """The original's corpus, by its rules: "climbmix", or "climbmix:N" with N shards of train."""
    _, _, number = spec.partition(":")
    try:
        num_shards = int(number) if ":" in spec else _DEFAULT_SHARDS
    except ValueError:
        num_shards = 0
    if not 1 <= num_shards <= _HOLDOUT_SHARD:
        raise UsageError(f"--corpus={spec}: the number of shards must be from 1 to {_HOLDOUT_SHARD}")
    # val and holdout come before train, which leaves out the documents that they have
    shards: list[tuple[int, str]] = [(_VAL_SHARD, "val"), (_HOLDOUT_SHARD, "holdout")]
    shards += [(number, "train") for number in range(num_shards)]
    files = [(f"shard_{number:05d}.parquet", split) for number, split in shards]
    spec, name = f"{CLIMBMIX}:{num_shards}", f"{CLIMBMIX}-{num_shards}"
    return _on_the_hub(spec, name, _CLIMBMIX_REPOSITORY, files, ORIGINAL, downloads)


def _on_the_hub(
    spec: str,
    name: str,
    repository: str,
    files: Sequence[tuple[str, str | None]],
    rules: TextRules,
    downloads: Path | None,
) -> Corpus:
    """Parquet files of one dataset on the hub; the manifest names the commit."""

    def fetch(reporter: Reporter) -> TextFiles:
        folder = _fetch(repository, [name for name, _ in files], reporter, downloads)
        description = {"repository": repository, "commit": folder.name}
        return TextFiles(tuple(TextFile(folder / name, split) for name, split in files), description)

    return Corpus(spec, name, lambda: sha256_of_json([repository, files]), fetch, rules)


def _fetch(repository: str, names: list[str], reporter: Reporter, downloads: Path | None) -> Path:
    """The folder with the named files of the dataset's newest commit, in a cache as `huggingface_hub` has it.

    The library checks sizes only, so SHA-256 is checked here; a damaged file is fetched once more.

    Raises:
      CorpusError: a file cannot be fetched.
      NetworkError: a network variable is unusable.
    """
    folder = _download(repository, names, reporter, downloads)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CorpusError(
            f"the dataset {repository} has no file {missing[0]} in its commit {folder.name[:10]}: "
            "it was moved, or HF_ENDPOINT is no mirror of it"
        )
    if damaged := [name for name in names if _is_damaged(folder / name)]:
        reporter.note(f"{', '.join(damaged)}: damaged, so fetched again")
        _download(repository, damaged, reporter, downloads, again=True)
        if damaged := [name for name in damaged if _is_damaged(folder / name)]:
            raise CorpusError(
                f"{folder / damaged[0]} does not have the SHA-256 that the hub names: check the connection and "
                "HF_ENDPOINT, and call again later"
            )
    return folder


def _download(
    repository: str, names: list[str], reporter: Reporter, downloads: Path | None, *, again: bool = False
) -> Path:
    """Downloads what the cache lacks, or everything again; without a connection the cache is used as it is."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError, HfHubHTTPError
    from huggingface_hub.utils.tqdm import tqdm

    cache = downloads or Path(constants.HF_HUB_CACHE)
    remedy = "make room, or name another place in --cache_dir or HF_HOME"
    hidden: Any = partial(tqdm, disable=True)
    bars: Any = partial(tqdm, disable=None)  # on a terminal only
    options: dict[str, Any] = {"repo_type": "dataset", "allow_patterns": names, "force_download": again}
    options["cache_dir"] = cache
    # A KeyboardInterrupt would wait for all downloads: end at once instead
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with contextlib.suppress(DryRunError):  # no connection
            plan = snapshot_download(repository, dry_run=True, tqdm_class=hidden, **options)
            sizes = [file.file_size for file in plan if file.will_download]
            if (free := free_bytes(cache)) < sum(sizes):
                raise CorpusError(
                    f"{sum(sizes) / 1e9:.2f} GB are to be fetched into {cache}, where {free / 1e9:.2f} GB are free: "
                    + remedy
                )
            if sizes:
                reporter.note(f"fetching {len(sizes)} files of {repository}, {sum(sizes) / 1e6:.1f} MB")
        return Path(snapshot_download(repository, tqdm_class=bars, **options))
    except CorpusError:
        raise
    except HfHubHTTPError as error:
        raise CorpusError(
            f"the hub answers {error.response.status_code} when asked for the dataset {repository}: check HF_ENDPOINT, "
            "and your token if you have one, or call again later"
        ) from error
    except Exception as error:  # the library's own, those of its HTTP client, and the system's
        if (fault := faulty_variable()) is not None:
            raise fault from error
        if isinstance(error, OSError) and error.errno is not None:
            raise CorpusError(f"cannot write {error.filename or cache}: {error.strerror}: {remedy}") from error
        raise CorpusError(
            f"the dataset {repository} cannot be fetched ({str(error).partition(chr(10))[0] or type(error).__name__}): "
            "check the connection and HF_ENDPOINT, and call again, which fetches only the files that are missing"
        ) from error
    finally:
        signal.signal(signal.SIGINT, handler)


def _is_damaged(path: Path) -> bool:
    """Whether a file's SHA-256 is not the name of its blob; without links in the cache there is no such name."""
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    return re.fullmatch(r"[0-9a-f]{64}", blob) is not None and sha256_of_file(path) != blob
