"""Whether `autoresearch run` would take the page, find who is to propose and a place for snapshots, and go on."""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.checks.check import Check, refusal
from autoresearch_jax.commands.checks.devices import log_of_failure
from autoresearch_jax.commands.checks.ledger import check_ledger
from autoresearch_jax.commands.checks.snapshot_dir import check_snapshot_dir
from autoresearch_jax.commands.decision_flags import decision_settings, make_certification, make_pruning, make_rule
from autoresearch_jax.commands.proposer_flags import check_proposer, proposer_options
from autoresearch_jax.commands.run_flags import run_folder
from autoresearch_jax.commands.task_flags import TaskOptions
from autoresearch_jax.engine.program import Program, read_program
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import run_settings
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.errors import UserError
from autoresearch_jax.tasks.lm.task import METRIC
from autoresearch_jax.types import Scalar


def check_run(flag_values: flags.FlagValues, environment: Mapping[str, str]) -> Iterator[Check]:
    """The page, who proposes, where snapshots go; with --tag the run's ledger, and whether the flags are its own.

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
    place = flag_values.snapshot_dir
    yield check_snapshot_dir(None if place is None else place.rstrip("/"))
    if flag_values.tag:
        folder = run_folder(flag_values)
        yield from check_ledger(folder, lambda: _settings(flag_values, folder, environment))


def _settings(flag_values: flags.FlagValues, folder: RunFolder, environment: Mapping[str, str]) -> dict[str, Scalar]:
    """What the flags would have a run keep to.

    Raises:
      UserError: the dataset, the training file, the device or JAX is not there.
    """
    task = TaskOptions.from_flags(flag_values)
    try:
        with log_of_failure() as log_path:
            terms = task.make_terms(log_path)
    except PackageNotFoundError as error:
        raise UserError(str(error)) from error
    workspace = Workspace.of(Path(flag_values.editable), flag_values.tag, folder.workspace, environment)
    rule = make_rule(decision_settings(flag_values), terms.metric)
    pruning, certification = make_pruning(flag_values), make_certification(flag_values)
    return run_settings(workspace.editable, flag_values.seed, terms, rule, pruning, certification)


def _check_proposer(flag_values: flags.FlagValues, program: Program | None, environment: Mapping[str, str]) -> None:
    """Raises UserError if nobody could propose; without page or training file only flags are looked at."""
    options = proposer_options(flag_values, environment)
    editable = Path(flag_values.editable)
    if program is not None and editable.is_file():
        source = editable.read_text(encoding="utf-8", errors="replace")
        check_proposer(options, editable, program, source, environment)
