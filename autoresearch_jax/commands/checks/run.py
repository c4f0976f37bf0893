"""Whether `autoresearch run` would take the page of instructions, and find who is to propose."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.checks.check import Check, refusal
from autoresearch_jax.commands.proposer_flags import check_proposer, proposer_options
from autoresearch_jax.errors import UserError
from autoresearch_jax.lm.task import METRIC
from autoresearch_jax.search.program import Program, read_program


def check_run(flag_values: flags.FlagValues, environment: Mapping[str, str]) -> Iterator[Check]:
    """The page, and who proposes.

    Args:
      flag_values: of `autoresearch run`.
      environment: of this process.
    """
    program = None
    try:
        program = read_program(Path(flag_values.program))
        program.check_metric(METRIC.name)
        yield Check("program", f"{flag_values.program}, {len(program.constants)} constants in its table")
    except UserError as error:
        yield refusal("program", error)
    try:
        _check_proposer(flag_values, program, environment)
        yield Check("proposer", flag_values.proposer)
    except UserError as error:
        yield refusal("proposer", error)


def _check_proposer(flag_values: flags.FlagValues, program: Program | None, environment: Mapping[str, str]) -> None:
    """Raises UserError if nobody could propose; without page or training file only flags are looked at."""
    options = proposer_options(flag_values, environment)
    editable = Path(flag_values.editable)
    if program is not None and editable.is_file():
        source = editable.read_text(encoding="utf-8", errors="replace")
        check_proposer(options, editable, program, source, environment)
