"""The page for the next experiment of a run by hand, as a driver's agent gets one. It only reads, also beside a driver.

autoresearch brief --tag=nov20
"""

import json
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_jax.commands.console import notices_of
from autoresearch_jax.commands.folder_options import SAME_COMMAND, FolderOptions
from autoresearch_jax.commands.options import InRun, format_option, list_flags, option
from autoresearch_jax.commands.proposer_options import ProposerOptions
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.briefs import Asking, make_brief, running_proposals
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.limits import limits_left
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.state import asset_of, concluded, settled_constants
from autoresearch_jax.engine.stopping import Interrupts, StoppingList
from autoresearch_jax.errors import UserError
from autoresearch_jax.proposers.base import MAX_WHY_CHARACTERS, Brief
from autoresearch_jax.proposers.briefing import rule_line, write_brief
from autoresearch_jax.proposers.hints import hint_lines
from autoresearch_jax.report.summary import stored_metric
from autoresearch_jax.sanitize import clean_block, clean_line, redact, secret_values

_notice = notices_of("brief")
TAKES_RUN_FLAGS = True
_INSTRUCTIONS = """\
You are to improve the {noun} `{name}` by one experiment of a run: one idea, as small a change as it takes.

- Start from the champion's source below. Edit `{name}` and nothing else.
- `autoresearch check {run}` says in seconds what is wrong with the text. `autoresearch try {run}` measures
  it on one trial's budget, compares it with the champion, decides and records; it takes minutes.
- While a trial is at work on this machine, do not train, benchmark or install anything.
- Do not try again what was tried, as listed below, unless you know why it comes out otherwise this time.
{rule}- Tell `try` with `--hypothesis` in a line what you changed and what gain you expect of it, with `--category` the
  kind of change, one of: {categories}. With `--why` you may say in at most {why} characters why it should work: people
  read that as your opinion. The tool `try` of `autoresearch mcp` has arguments of the same names.
- What is asked for this time stands at the end of this page.
"""


@dataclass(frozen=True)
class Options:
    """What `autoresearch brief` was asked for."""

    where: FolderOptions
    proposer: ProposerOptions = field(default_factory=ProposerOptions)
    program: Path = option(Path("./program.md"), "the page of instructions", in_run=InRun.FREE)
    editable: Path = option(Path("./train_lib.py"), "the file to edit", in_run=InRun.BOUND)
    experiments: int | None = option(
        None, "end after this many, in place of what program.md says of experiments", least=0, in_run=InRun.FREE
    )
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Prints the page."""
    folder, asked = options.where.existing, options.proposer
    with closing(Ledger.open_to_read(folder.ledger)) as ledger, ledger.as_of_now():
        asking = asked.asking(options.where)
        brief = read_brief(ledger, folder, options.program, options.experiments, asking, _notice)
    page = write_brief(brief, instructions(brief, options.editable.name, options.where), asked.brief_tokens)
    page = redact(page, secret_values(os.environ))
    if options.format == "json":
        print(json.dumps({"experiment": brief.experiment, "page": page}, indent=1))
    else:  # as it is, unless a terminal would obey what stands in it
        print(clean_block(page, sys.maxsize) if sys.stdout.isatty() else page, end="")
    return 0


def instructions(brief: Brief, name: str, where: FolderOptions) -> str:
    """Our own words at the head of the page: how a change is made by hand, which a driver's agent is told otherwise."""
    flags = shlex.join(flag for one in list_flags(where) if not one.is_default for flag in one.words)
    return _INSTRUCTIONS.format(
        noun=brief.asset.noun,
        name=name,
        run=flags,
        rule=rule_line(brief.asset),
        categories=", ".join(map(clean_line, brief.categories)),
        why=MAX_WHY_CHARACTERS,
    )


def read_brief(
    ledger: Ledger,
    folder: RunFolder,
    program: Path,
    experiments: int | None,
    asking: Asking,
    notice: Callable[[str], None],
) -> Brief:
    """What a proposer would be told now, beside a driver that goes on.

    Args:
      experiments: replaces what the page says of experiments.
      notice: told of what on the page does not fit.

    Raises:
      UserError: the run has no champion yet, or the page cannot be read.
    """
    metric = stored_metric(ledger)
    champion = next((row for row in reversed(concluded(ledger)) if row.decision is Action.KEEP), None)
    if metric is None or champion is None:
        at_work = folder.holder()
        how = f"{SAME_COMMAND} goes on" if at_work is None else f"{at_work} is at work on it: ask again later"
        raise UserError(f"{folder.path}: no champion yet: its baseline is not measured; {how}")
    page = ProgramFile(program)
    space = page.fitting(asset_of(ledger), ledger.source(champion.id), settled_constants(ledger), notice)
    stopping = StoppingList(ledger, lambda: page.program.stops, metric, Interrupts(), experiments)
    out = len(running_proposals(ledger))
    brief = make_brief(
        ledger,
        folder,
        experiment=ledger.next_number(),
        program=page.program.for_agents,
        space=space,
        limits_left=limits_left(stopping.stops(), stopping.progress(champion, more_experiments=out)),
        asking=asking,
    )
    hints = hint_lines(brief.space, brief.history, brief.metric, brief.champion_constants, brief.noise_floor)
    return replace(brief, hints=hints)
