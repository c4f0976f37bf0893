"""The flag --set: constants of the training file with other values than it comes with."""

import ast
import json
from collections.abc import Mapping, Sequence

from absl import flags

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.errors import UsageError
from autoresearch_jax.types import Scalar


def define_constants_flag(flag_values: flags.FlagValues) -> None:
    """Defines --set."""
    flags.DEFINE_multi_string(
        "set", [], "NAME=VALUE: a constant of the training file that is to be another", flag_values=flag_values
    )


def constants_of(flag_values: flags.FlagValues) -> dict[str, Scalar]:
    """Values of the constants that --set names.

    Raises:
      UsageError: a setting is not of the form NAME=VALUE.
    """
    return parse_settings(flag_values.set)


def parse_settings(settings: list[str]) -> dict[str, Scalar]:
    """Values of "NAME=VALUE" settings: Python literals, or the text itself where it is none.

    Raises:
      UsageError: a setting is not of that form.
    """
    values: dict[str, Scalar] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (equals and name.isidentifier()):
            raise UsageError(f"--set {setting}: expected NAME=VALUE")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # as its documentation warns
            values[name] = text
    return values


def check_began_with(experiments: Sequence[ExperimentRow], constants: Mapping[str, Scalar]) -> None:
    """A run keeps the constants that it began with, whatever --set says later.

    Args:
      experiments: of the run, in order; without a baseline it has not begun.
      constants: that --set names.

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
