"""task.toml: what is edited, how it runs, what scores it, and what agents are told of it.

Each mistake is one line with file, line and remedy.
"""

import dataclasses
import os
import re
import shlex
import shutil
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.kinds import KINDS, kind_of
from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.confined import PYTHONS
from autoresearch_jax.types import Metric

SEEDS, ITEMS, LATENCY = NOISES = ("seeds", "items", "latency")
LINES, SOCKET = SPEAKS = ("lines", "socket")
VAL, HOLDOUT = "val", "holdout"
MEBIBYTE = 1 << 20
KIBIBYTE = 1 << 10


class TaskFileError(UsageError):
    """task.toml cannot be used; the message names its line and what to do."""


@dataclass(frozen=True)
class Asset:
    """The editable file; for `kind` and `constants` see `autoresearch_jax.assets`."""

    file: str
    kind: str | None = None
    max_bytes: int = 64 * KIBIBYTE
    constants: str | None = None


@dataclass(frozen=True)
class MetricTable:
    """The number; `noise` is what its error comes from."""

    name: str
    direction: str
    noise: str = SEEDS


@dataclass(frozen=True)
class BudgetTable:
    """Limits of a trial. All seconds but those of the trusted evaluator are attended ones.

    Attributes:
      seconds: the time box: that the asset is at work for the evaluator, or runs.
      memory_mb: of all the asset's processes; None for the default.
      build_seconds: of `build`.
      start_seconds: until what serves is ready.
      evaluate_seconds: that the evaluator itself may take, waiting for answers left out.
    """

    seconds: float
    memory_mb: float | None = None
    build_seconds: float = 300.0
    start_seconds: float = 120.0
    evaluate_seconds: float = 600.0


@dataclass(frozen=True)
class Command:
    """A program and its arguments."""

    command: tuple[str, ...]


@dataclass(frozen=True)
class Serve:
    """How the asset runs as a service."""

    command: tuple[str, ...]
    speaks: str = LINES


@dataclass(frozen=True)
class Files:
    """Files beside the asset, relative to task.toml's folder; the asset may read those of `asset` alone."""

    asset: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    holdout: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposals:
    """What proposers are told beside program.md."""

    categories: tuple[str, ...] = ("method", "structure", "speed", "simplification")


@dataclass(frozen=True)
class TaskFile:
    """A task.toml that was read and checked; commands name programs that are there."""

    path: Path
    asset: Asset
    metric: MetricTable
    budget: BudgetTable
    evaluate: Command
    build: Command | None = None
    run: Command | None = None
    serve: Serve | None = None
    files: Files = field(default_factory=Files)
    proposals: Proposals = field(default_factory=Proposals)
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict)  # of keys, for messages

    @property
    def folder(self) -> Path:
        """Folder that paths are relative to."""
        return self.path.parent

    @property
    def asset_path(self) -> Path:
        """The editable file."""
        return self.folder / self.asset.file

    @property
    def asset_kind(self) -> AssetKind:
        """The kind of the editable file."""
        return kind_of(self.asset.file, self.asset.kind, self.asset.constants)

    @property
    def what_is_measured(self) -> Metric:
        """The scalar metric."""
        return Metric(self.metric.name, self.metric.direction)

    def place(self, table: str, key: str = "") -> str:
        """File and line of a key, or of its table, for messages."""
        line = self.lines.get((table, key)) or self.lines.get((table, ""), 1)
        return f"{self.path}:{line}"

    def absolute(self, names: Sequence[str]) -> list[str]:
        """Paths of files."""
        return [str((self.folder / name).absolute()) for name in names]


def read_task_file(path: Path) -> TaskFile:
    """Reads and checks a task.toml.

    Raises:
      TaskFileError: it is missing, no TOML, or says what cannot be.
    """
    path = path.absolute()
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        remedy = "name it with --task_file, or make one with `autoresearch init --task=command`"
        raise TaskFileError(f"{path}: {error.strerror}: {remedy}") from error
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+)", str(error))
        raise TaskFileError(f"{path}:{at[1] if at else len(text.splitlines())}: no TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{path}: is not UTF-8 text: save it as UTF-8") from error
    reader = _Reader(path, _lines_of_keys(text))
    found = TaskFile(path, lines=reader.lines, **reader.tables(tables))
    _check(found, reader)
    return found


class _Reader:
    """Turns tables of TOML into dataclasses."""

    def __init__(self, path: Path, lines: Mapping[tuple[str, str], int]) -> None:
        self._path = path
        self.lines = lines

    def error(self, table: str, key: str, words: str) -> TaskFileError:
        line = self.lines.get((table, key)) or self.lines.get((table, ""), 1)
        return TaskFileError(f"{self._path}:{line}: {words}")

    def tables(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        hints = typing.get_type_hints(TaskFile)
        known = {one.name: one for one in dataclasses.fields(TaskFile) if one.name not in ("path", "lines")}
        for name in tables:
            if name not in known:
                raise self.error(name, "", f"[{name}] is unknown: there are {', '.join(known)}")
        found = {}
        for name, one in known.items():
            if name not in tables:
                if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                    raise self.error("", "", f"[{name}] is missing: add it")
                continue
            found[name] = self._table(name, _without_none(hints[name]), tables[name])
        return found

    def _table(self, table: str, type_: Any, values: Any) -> Any:
        if not isinstance(values, dict):
            raise self.error("", table, f"{table} must be a table: write [{table}]")
        known = {one.name: one for one in dataclasses.fields(type_)}
        hints = typing.get_type_hints(type_)
        for key in values:
            if key not in known:
                raise self.error(table, key, f"{key} is unknown in [{table}]: there are {', '.join(known)}")
        for key, one in known.items():
            if key not in values and one.default is dataclasses.MISSING:
                raise self.error(table, "", f"{key} is missing in [{table}]: add it")
        return type_(**{key: self._value(table, key, _without_none(hints[key]), values[key]) for key in values})

    def _value(self, table: str, key: str, type_: Any, value: Any) -> Any:
        if typing.get_origin(type_) is tuple:
            if not (isinstance(value, list) and all(isinstance(one, str) and one for one in value)):
                raise self.error(table, key, f'{key} must be a list of texts, such as ["python3", "main.py"]')
            return tuple(value)
        if type_ is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, type_) or isinstance(value, bool):
            words = {str: "a text", float: "a number", int: "a whole number"}[type_]
            raise self.error(table, key, f"{key} must be {words}, not {value!r}")
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise self.error(table, key, f"{key} must be above 0")
        return value


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
    return hint


def _lines_of_keys(text: str) -> dict[tuple[str, str], int]:
    """The line of each table, as (table, ""), and of each key, as (table, key), of TOML as people write it."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([\w\"'.-]+)\s*\]", line):
            table = header[1].strip("\"'").partition(".")[0]
            found.setdefault((table, ""), number)
        elif key := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*[=.]", line):
            found.setdefault((table, key[1]), number)
    return found


def _check(task: TaskFile, reader: _Reader) -> None:
    """Refuses what a trial would fail of."""
    for table, key, value, choices in (
        ("asset", "kind", task.asset.kind, tuple(KINDS)),
        ("metric", "direction", task.metric.direction, ("maximize", "minimize")),
        ("metric", "noise", task.metric.noise, NOISES),
        ("serve", "speaks", task.serve and task.serve.speaks, SPEAKS),
    ):
        if value is not None and value not in choices:
            raise reader.error(table, key, f"{key} = {value!r}: one of {', '.join(choices)}")
    if not re.fullmatch(r"[A-Za-z_]\w*", task.metric.name) or task.metric.name in ("items", "invalid", "ask"):
        raise reader.error("metric", "name", f"name = {task.metric.name!r}: letters, digits and _, such as accuracy")
    if (task.run is None) == (task.serve is None):
        raise reader.error("run", "", "exactly one of [run] and [serve] must be there")
    if task.metric.noise == LATENCY and task.serve is None:
        raise reader.error("metric", "noise", "noise = 'latency' needs [serve], whose turns can be alternated")
    if task.asset.constants is not None:
        try:
            kind_of(task.asset.file, task.asset.kind, task.asset.constants)
        except UsageError as error:
            raise reader.error("asset", "constants", str(error)) from error
    for table, key, names in (
        ("asset", "file", (task.asset.file,)),
        *(("files", key, getattr(task.files, key)) for key in ("asset", VAL, HOLDOUT)),
    ):
        for name in names:
            _check_file(task, reader, table, key, name)
    if task.asset_path.is_symlink():
        raise reader.error("asset", "file", f"{task.asset.file} is a link: name the file that it leads to")
    evaluator = [word for word in task.evaluate.command if (task.folder / word).is_file()]
    hidden = [(task.folder / name).stat() for name in (*task.files.val, *task.files.holdout, *evaluator)]
    for name in (task.asset.file, *task.files.asset):
        if any(os.path.samestat((task.folder / name).stat(), other) for other in hidden):
            raise reader.error(
                "files", "asset", f"{name} is a file of val, holdout or [evaluate], too, which the asset may not read"
            )
    for table in ("build", "run", "serve", "evaluate"):
        if (command := getattr(task, table)) is not None:
            _check_command(task, reader, table, command.command)


def _check_file(task: TaskFile, reader: _Reader, table: str, key: str, name: str) -> None:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or not parts:
        raise reader.error(table, key, f"{name!r}: a path below {task.folder}, without ..")
    if not (task.folder / name).is_file():
        raise reader.error(table, key, f"{name}: no such file in {task.folder}: make it, or name another")


def _check_command(task: TaskFile, reader: _Reader, table: str, words: tuple[str, ...]) -> None:
    if not words:
        raise reader.error(
            table, "command", 'command is empty: a program and its arguments, such as ["python3", "main.py"]'
        )
    shown, local = shlex.join(words), table == "evaluate"
    program = words[0]
    if program not in PYTHONS and shutil.which(program if "/" not in program else str(task.folder / program)) is None:
        raise reader.error(
            table, "command", f"{shown}: no program {program} on this machine: install it, or name another"
        )
    if program in PYTHONS and len(words) > 1 and words[1].endswith(".py"):
        own = {os.path.normpath(name) for name in (task.asset.file, *task.files.asset)}
        if local and not (task.folder / words[1]).is_file():
            raise reader.error(table, "command", f"{shown}: no file {words[1]} in {task.folder}")
        if not local and os.path.normpath(words[1]) not in own:
            raise reader.error(
                table,
                "command",
                f"{shown}: {words[1]} is not among the files that the asset may read: add it to [files] asset",
            )


def contract_text(task: TaskFile, budget_seconds: float) -> str:
    """What task.toml asks of the asset, in Markdown without headings."""
    asset, metric = task.asset, task.metric
    others = ", ".join(f"`{name}`" for name in task.files.asset) or "no other file"
    lines = [
        f"`{asset.file}` is the only file that is edited; it has at most {asset.max_bytes / KIBIBYTE:g} KiB.",
        f"It is scored by `{metric.name}`, which is to be {metric.direction}d"
        + f": an evaluator outside the sandbox (`{shlex.join(task.evaluate.command)}`) reads what it answered.",
        f"It runs in a sandbox without network, and reads {others} beside itself; not the evaluator's files.",
    ]
    if task.build is not None:
        lines.append(f"`{shlex.join(task.build.command)}` builds it into $BUILD, in {task.budget.build_seconds:g} s.")
    if task.run is not None:
        lines.append(f"`{shlex.join(task.run.command)}` runs it once, in {budget_seconds:g} s; it writes into $OUT.")
    if task.serve is not None:
        how = "a JSON line for each JSON line" if task.serve.speaks == LINES else "on the unix socket $SOCKET"
        lines.append(
            f"`{shlex.join(task.serve.command)}` serves it: it answers {how}, for {budget_seconds:g} s in all; "
            f"it is ready in {task.budget.start_seconds:g} s."
        )
    if metric.noise == LATENCY:
        lines.append("It is measured in turns with the champion; the one whose turn it is not stands still.")
    if task.budget.memory_mb is not None:
        lines.append(f"All its processes have {task.budget.memory_mb:g} MiB of memory together.")
    return "\n".join(f"- {line}" for line in lines)
