"""Writes AGENTS.md, program.md and a training file into a git repository that has none, and overwrites nothing.

autoresearch init            # into this folder
autoresearch init FOLDER
autoresearch init --task=command FOLDER    # task.toml, an asset, an evaluator and program.md instead
"""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.task_options import COMMAND, LM
from autoresearch_jax.engine.git import Git, GitError
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.tables import format_lines

TAKES_ARGUMENTS = True
STARTER = Path(__file__).parent.parent / "starter"  # links to the files of the checkout, which a wheel has as files
FILES = ("AGENTS.md", "program.md", "train_lib.py")
COMMAND_FILES = ("task.toml", "tour.py", "serve.py", "evaluate.py", "program.md")


@dataclass(frozen=True)
class Options:
    """What `autoresearch init` was asked for."""

    task: str = option(LM, "what the files are for", choices=(LM, COMMAND))
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Writes what is missing, and prints a line a file and what to do next."""
    if len(arguments) > 1:
        raise UsageError(f"one folder, not {len(arguments)}: {' '.join(arguments)}")
    folder = Path(arguments[0] if arguments else ".")
    require_repository(folder)
    source, names = (STARTER / COMMAND, COMMAND_FILES) if options.task == COMMAND else (STARTER, FILES)
    written = [name for name in names if write_new(source / name, folder / name)]
    found = {name: "written" if name in written else "there already, left as it is" for name in names}
    found["next"] = next_step(folder, written, options.task)
    print(json.dumps(found, indent=1) if options.format == "json" else format_lines(found))
    return 0


def require_repository(folder: Path) -> None:
    """Refuses a folder that is in no git repository: a run keeps its results as commits.

    Raises:
      UserError: it is in none, or is no folder, or git is missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: make it, git init {shlex.quote(str(folder))}")
    try:
        Git(folder, os.environ).path("rev-parse", "--show-toplevel")
    except GitError as error:
        if "not a git repository" not in str(error):
            raise
        remedy = f"git init {shlex.quote(str(folder))}"
        raise UserError(f"{folder}: in no git repository, and a run keeps its results as commits: {remedy}") from error


def write_new(source: Path, target: Path) -> bool:
    """Copies a file to where there is none; False where there is something, be it a broken link.

    Raises:
      UserError: it cannot be written.
    """
    data = source.read_bytes()
    try:
        file = target.open("xb")
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        with file:
            file.write(data)
    except OSError as error:
        target.unlink(missing_ok=True)  # half of it would count as there already
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    return True


def next_step(folder: Path, written: list[str], task: str = LM) -> str:
    """What to do next, as lines of shell."""
    steps = [] if folder == Path(".") else [f"cd {shlex.quote(str(folder))}"]
    if written:
        steps += [f"git add {' '.join(written)}", "git commit -m start"]
    if task == COMMAND:
        steps += ["autoresearch trial --task=command", "autoresearch run --task=command --tag=NAME"]
    else:
        steps += ["autoresearch prepare", "autoresearch run --tag=NAME --budget_seconds=60"]
    return " && ".join(steps)
