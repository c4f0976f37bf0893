"""Files of a dataset on the Hugging Face hub: fetched in parallel, resumed, and held to the hub's own SHA-256.

They lie where every program that uses `huggingface_hub` looks for them, in the cache that HF_HOME or HF_HUB_CACHE
names, as blobs with a link for each commit; but the library itself begins a file anew after every interruption.
HF_ENDPOINT, HF_HUB_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT count as they do for the library, and a token is sent if the
user has one.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not listed there

from autoresearch_jax.files import exclusive_lock, free_bytes, sha256_of_file
from autoresearch_jax.tasks.lm.data.download import (
    Refused,
    RemoteFile,
    Stopped,
    Unreachable,
    ask,
    download,
    in_words,
    size_of,
)
from autoresearch_jax.tasks.lm.data.reporter import Reporter
from autoresearch_jax.tasks.lm.data.text_files import CorpusError

_BRANCH = "main"
_WORKERS = 8  # files at once, as the original does
_NAMES_AT_ONCE = 500  # to ask the hub about
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fetched:
    """Files of one commit, on this machine.

    Attributes:
      commit: of the repository; 40 hexadecimal digits.
      paths: by the name in the repository.
    """

    commit: str
    paths: dict[str, Path]


def fetch_files(repository: str, names: Sequence[str], reporter: Reporter) -> Fetched:
    """Brings files of the newest commit here, or finds them in the cache; every one has the hub's SHA-256.

    Whatever interrupts it, what has come stays, and the next call goes on from there.

    Args:
      repository: "owner/name" of a dataset.
      names: of the files, relative to the repository.
      reporter: told how many bytes have come.

    Raises:
      CorpusError: they cannot be had; the message says what to do.
    """
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}"
    try:
        try:
            commit, files = _list_files(repository, names)
        except OfflineModeIsEnabled:
            return _from_cache(folder, repository, names, "HF_HUB_OFFLINE is set", reporter)
        except Unreachable as error:
            return _from_cache(folder, repository, names, str(error), reporter)
        _download_missing(folder, repository, commit, files, reporter)
        return Fetched(commit, {file.name: _link(folder, commit, file) for file in files})
    except OSError as error:
        raise CorpusError(
            f"cannot write {error.filename or folder}: {error.strerror or error} (HF_HOME says where the files go)"
        ) from error


def _list_files(repository: str, names: Sequence[str]) -> tuple[str, list[RemoteFile]]:
    """The newest commit, and what the hub says of the files in it, in the order of the names."""
    about = f"{constants.ENDPOINT}/api/datasets/{repository}"
    headers = build_hf_headers()
    found = {}
    try:
        commit = ask("GET", f"{about}/revision/{_BRANCH}", headers, params={"expand": "sha"})["sha"]
        for start in range(0, len(names), _NAMES_AT_ONCE):
            asked = list(names[start : start + _NAMES_AT_ONCE])
            infos = ask("POST", f"{about}/paths-info/{commit}", headers, data={"paths": asked})
            found.update({info["path"]: info for info in infos})
    except Refused as error:
        raise CorpusError(
            f"{error} when asked about the dataset {repository}: check HF_ENDPOINT, and your token if you have one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"what answers at {constants.ENDPOINT} is no hub ({in_words(error)}): check HF_ENDPOINT"
        ) from error
    files = []
    for name in names:
        stored = found.get(name, {}).get("lfs")  # large files, which the hub keeps under their SHA-256
        if stored is None:
            raise CorpusError(
                f"the dataset {repository} has no file {name} with a SHA-256 on the hub: "
                "it was moved, or HF_ENDPOINT is no mirror of it"
            )
        files.append(RemoteFile(name, int(stored["size"]), str(stored["oid"])))
    return commit, files


def _from_cache(folder: Path, repository: str, names: Sequence[str], why: str, reporter: Reporter) -> Fetched:
    """The files that an earlier call left, checked against the SHA-256 that they are stored under."""
    reference = folder / "refs" / _BRANCH
    commit = reference.read_text().strip() if reference.is_file() else ""
    paths: dict[str, Path] = {}
    for name in names:
        path = try_to_load_from_cache(repository, name, revision=_BRANCH, repo_type="dataset")
        if not isinstance(path, str):
            raise CorpusError(
                f"{why}, and {name} of the dataset {repository} is not in {folder}: "
                "call again with a connection, or with HF_HOME where it was fetched to"
            )
        blob = Path(path).resolve()
        if not _SHA256.fullmatch(blob.name):
            reporter.note(f"{path}: its SHA-256 is not known, so it is taken as it is")
        elif sha256_of_file(blob) != blob.name:
            raise CorpusError(f"{path} is damaged: remove {blob} and call again with a connection")
        paths[name] = Path(path)
    reporter.note(f"{why}: using what {folder} has, of commit {commit[:10]}")
    return Fetched(commit, paths)


def _download_missing(
    folder: Path, repository: str, commit: str, files: Sequence[RemoteFile], reporter: Reporter
) -> None:
    """Makes sure that the cache has the blob of every file, whole."""
    missing = [file for file in files if not _is_whole(folder, file, reporter)]
    if not missing:
        return
    partials = {file: _partial(folder, file) for file in missing}
    wanted = sum(file.size - size_of(path) for file, path in partials.items())
    _check_room(folder, wanted)
    reporter.stage(_stage_name(missing), sum(file.size for file in missing), "bytes")
    stop = threading.Event()
    with _workers(stop) as workers:
        futures = [
            workers.submit(_fetch, folder, _url(repository, commit, file), file, reporter, stop) for file in missing
        ]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        _raise_first(done)


def _raise_first(futures: Iterable["Future[None]"]) -> None:
    """Raises what went wrong; that a download was stopped because another failed only if there is nothing else."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error


@contextmanager
def _workers(stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that end soon when the block ends, however it does."""
    workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="download")
    try:
        yield workers
    finally:
        stop.set()
        workers.shutdown(wait=True, cancel_futures=True)


def _fetch(folder: Path, url: str, file: RemoteFile, reporter: Reporter, stop: threading.Event) -> None:
    """Brings a file into the cache, unless another program just does."""
    partial, blob = _partial(folder, file), _blob(folder, file)
    # the library's own lock, so that no two programs fetch the same file at once
    lock = folder.parent / ".locks" / folder.name / f"{file.sha256}.lock"
    for parent in (partial.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)

    def say_so() -> None:
        reporter.note(f"another program is fetching {file.name}: waiting")

    with exclusive_lock(lock, say_so):
        if size_of(blob) == file.size:
            reporter.advance(file.size)
        else:
            download(url, file, partial, blob, headers=build_hf_headers(), reporter=reporter, stop=stop)


def _is_whole(folder: Path, file: RemoteFile, reporter: Reporter) -> bool:
    """Whether the cache has the file; one that is damaged is removed."""
    blob = _blob(folder, file)
    if not blob.exists():
        return False
    if size_of(blob) == file.size and sha256_of_file(blob) == file.sha256:
        return True
    reporter.note(f"{file.name} in the cache is damaged: fetching it again")
    blob.unlink()
    return False


def _link(folder: Path, commit: str, file: RemoteFile) -> Path:
    """The path of a file under the name that it has in a commit."""
    path = folder / "snapshots" / commit / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    reference = folder / "refs" / _BRANCH
    reference.parent.mkdir(exist_ok=True)
    if not reference.exists() or reference.read_text() != commit:
        _write_whole(reference, commit)
    blob = _blob(folder, file)
    if path.resolve() != blob.resolve():
        link = path.with_name(f"{path.name}.{os.getpid()}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, path.parent))
        link.replace(path)
    return path


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


def _check_room(folder: Path, wanted: int) -> None:
    free = free_bytes(folder)
    if free < wanted:
        raise CorpusError(
            f"{wanted / 1e9:.2f} GB are to be fetched into {folder}, where {free / 1e9:.2f} GB are free: "
            "make room, or set HF_HOME to another place"
        )


def _stage_name(files: Sequence[RemoteFile]) -> str:
    return f"fetching {files[0].name}" if len(files) == 1 else f"fetching {len(files)} files"


def _url(repository: str, commit: str, file: RemoteFile) -> str:
    return hf_hub_url(repository, file.name, repo_type="dataset", revision=commit)


def _blob(folder: Path, file: RemoteFile) -> Path:
    return folder / "blobs" / file.sha256


def _partial(folder: Path, file: RemoteFile) -> Path:
    return folder / "blobs" / f"{file.sha256}.autoresearch.incomplete"
