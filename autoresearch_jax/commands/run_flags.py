"""The flags of a run: kept in its ledger, and taken over by later commands on the run unless they are typed."""

import json
import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from absl import flags

from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import (
    NONE,
    GivenFlag,
    InRun,
    define_options,
    given_flags,
    kept_flags,
    list_flags,
    option_types,
    read_options,
)
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_folder import Lineages, RunFolder
from autoresearch_jax.engine.state import FLAGS, MACHINE_FLAGS
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.sanitize import REDACTED, clean_line, redact, secret_values
from autoresearch_jax.types import Scalar

T = TypeVar("T")


def flags_to_keep(options: Any, environment: Mapping[str, str]) -> dict[str, Scalar]:
    """The flags that give some options, as a run's settings have them: in words of a shell, with no secret in them."""
    secrets = secret_values(environment)

    def line(*kinds: InRun) -> str:
        return shlex.join(redact(word, secrets) for word in given_flags(options, kept=kinds))

    return {FLAGS: line(InRun.BOUND, InRun.FREE), MACHINE_FLAGS: line(InRun.MACHINE)}


@dataclass(frozen=True)
class RunFlags:
    """What a run was given: the texts of each flag by its name, and the settings that they came to."""

    folder: RunFolder
    texts: Mapping[str, Sequence[str]]
    settings: Mapping[str, Scalar]

    @classmethod
    def read(cls, folder: RunFolder) -> "RunFlags | None":
        """Reads a ledger, or what lineages were begun with.

        None where no run has begun, or it cannot be read, of which the command itself will tell.
        """
        settings: Mapping[str, Scalar] = {}
        try:
            if folder.ledger.is_file():
                with closing(Ledger.open_to_read(folder.ledger)) as ledger:
                    settings = ledger.settings()
            elif (lineages := Lineages.read(folder)) is not None and lineages.begun:
                settings = lineages.settings
        except (UserError, sqlite3.Error, ValueError):
            return None
        if FLAGS not in settings:
            return None
        texts: dict[str, list[str]] = {}
        for word in shlex.split(f"{settings[FLAGS]} {settings.get(MACHINE_FLAGS) or ''}"):
            name, _, text = word.removeprefix("--").partition("=")
            texts.setdefault(name, []).append(text)
        return cls(folder, texts, settings)

    @property
    def blanked(self) -> set[str]:
        """Flags that had a secret in them."""
        return {name for name, texts in self.texts.items() if any(REDACTED in text for text in texts)}

    def parse(self, options_type: type) -> flags.FlagValues:
        """The flags of a command with what the run was given, those with a secret left out."""
        flag_values, kept = flags.FlagValues(), kept_flags(options_type)
        define_options(flag_values, options_type)
        for name in self.texts.keys() & kept.keys() - self.blanked:
            for text in self.texts[name]:
                flag_values[name].parse(text)
        return flag_values

    def agrees(self, typed: GivenFlag, own: GivenFlag) -> bool:
        """Whether a flag is typed as the run has it, but for secrets, or as what that came to, such as its seed."""
        if typed.value == own.value:
            return True
        secrets = secret_values(os.environ)
        if [redact(text, secrets) for text in typed.texts] == self.texts.get(typed.name):
            return True
        came_to = self.settings.get(typed.name)
        if typed.in_run is not InRun.BOUND or typed.value is None or came_to is None:
            return False
        if isinstance(typed.value, Path):  # the settings have it below its repository
            parts = PurePath(str(came_to)).parts
            return typed.value.absolute().parts[-len(parts) :] == parts
        return bool(typed.value == came_to)


def read_on_run(flag_values: flags.FlagValues, options_type: type[T], notice: Callable[[str], None]) -> T:
    """The options of a command: what is typed, a flag file's words included, else what its run was given.

    A flag that is given again and again has the run's values, and then those that are typed.

    Args:
      notice: told in one line what is typed and differs from what the run has.

    Raises:
      UsageError: a value makes no sense, differs from one that the run is bound to, or has to be typed again.
    """
    where = read_options(flag_values, next(one for one in option_types(options_type) if issubclass(one, FolderOptions)))
    run = None if where.begun is None else RunFlags.read(where.begun)
    if run is None:
        return read_options(flag_values, options_type)
    of_run = run.parse(options_type)
    own = {flag.name: flag for flag in list_flags(read_options(of_run, options_type))}
    kept = kept_flags(options_type).keys() - set(where.not_taken)
    typed = {name for name in kept if not flag_values[name].using_default_value}
    for name in kept:
        if own[name].repeated:
            words: list[str] = (of_run[name].value or []) + (flag_values[name].value or [])
            flag_values[name].value = list(dict.fromkeys(words))
        elif name not in typed:
            flag_values[name].value = of_run[name].value
    options = read_options(flag_values, options_type)
    idle = set(_unused(options))
    unused = [own[name] for name in sorted(kept & idle - typed)]
    left_out = [flag for flag in unused if not flag.is_default and flag.in_run is InRun.FREE]
    for flag in left_out:
        flag_values[flag.name].unparse()
    options = read_options(flag_values, options_type)
    for name in sorted(run.blanked & kept - typed - idle):
        raise UsageError(f"--{name}: {run.folder.path} was given a secret in it, which is not kept: type it again")
    pairs = [(flag, own[flag.name]) for flag in list_flags(options) if flag.name in typed - idle and not flag.repeated]
    differing = [(flag, before) for flag, before in pairs if not run.agrees(flag, before)]
    if refused := [pair for pair in differing if pair[0].in_run is InRun.BOUND]:
        raise UsageError(
            f"{_beside(refused)}: {run.folder.path} is bound to what it was begun with: leave it out; a run of its own "
            "(another --tag) can have it"
        )
    said = [f"goes on with {_beside(differing)}"] if differing else []
    said += [f"{_shown(flag)} is left out, since nothing uses it now" for flag in left_out]
    if said:
        notice(clean_line(redact(f"{run.folder.path}: {'; '.join(said)}", secret_values(os.environ))))
    return options


def require_began_with(experiments: Sequence[ExperimentRow], constants: Mapping[str, Scalar]) -> None:
    """Refuses other constants than those that the run began with.

    Raises:
      UsageError: it began with others.
    """
    for row in reversed(experiments):
        if row.kind is not Kind.BASELINE or not (row.is_open or row.decision is Action.KEEP):
            continue
        for name, value in constants.items():
            if name not in row.constants or json.dumps(row.constants[name]) != json.dumps(value):
                raise UsageError(
                    f"--set {name}={value}: this run began with {row.constants.get(name)}: leave it out, "
                    "or choose another --tag"
                )
        return


def _unused(options: Any) -> Iterator[str]:
    """Flags that have no use beside the values of others, as each dataclass of the options says by `unused`."""
    yield from getattr(options, "unused", ())
    for own in fields(options):
        if is_dataclass(value := getattr(options, own.name)):
            yield from _unused(value)


def _beside(pairs: Sequence[tuple[GivenFlag, GivenFlag]]) -> str:
    """Typed flags, each with what the run has."""
    return ", ".join(
        f"{_shown(typed) or f'--{typed.name}={NONE}'} (the run has {_shown(own) or f'no --{own.name}'})"
        for typed, own in pairs
    )


def _shown(flag: GivenFlag) -> str:
    return shlex.join(flag.words)
