"""Whether an asset would be measured: traces it and makes all checks, in seconds; nothing is trained.

    autoresearch check --tag=nov20 [FILE]

Without FILE it is --editable as it stands. With --tag of a run that has begun the run's flags hold, and the text
is compared with its champion: what it changes, and whether its program was measured before. Nothing is written to the
run, whose driver may be at work. Before that, or without --tag, it is checked as `try` would begin a run with these
flags, and an unchanged file as the baseline. Exit status: 0 if it would be measured, 4 if not, 1 if it cannot be told
what it is a change of.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_jax.assets.base import AssetKind, AssetSyntaxError, ConstantError, same_value
from autoresearch_jax.assets.merging import known_constants, rebase_text
from autoresearch_jax.assets.python_size import MAX_LITERAL_BYTES
from autoresearch_jax.commands.brief import read_brief
from autoresearch_jax.commands.console import notices_of
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.hand_text import (
    base_of,
    committed_text,
    kept_texts,
    read_source,
    show_champion,
    syntax_fault,
)
from autoresearch_jax.commands.options import ConstantsOptions, InRun, format_option, option
from autoresearch_jax.commands.run_flags import require_began_with
from autoresearch_jax.commands.task_options import DEFAULT_EDITABLE, TaskOptions
from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.decide.rule import plus_minus
from autoresearch_jax.engine.briefs import Asking
from autoresearch_jax.engine.constants_table import table_objection
from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.recorder import score_of
from autoresearch_jax.engine.run_folder import Lineages, RunFolder
from autoresearch_jax.engine.same_program import repetition
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.proposers.base import Brief
from autoresearch_jax.proposers.command import BRIEF_FILE
from autoresearch_jax.report.diffs import compare
from autoresearch_jax.report.tables import print_lines
from autoresearch_jax.sanitize import clean_block, clean_line
from autoresearch_jax.types import CandidateRejected, Scalar, Status

_say = notices_of("check")
TAKES_RUN_FLAGS = True
TAKES_ARGUMENTS = True
NOT_MEASURED = 4
MAX_DETAILS = 4000


@dataclass(frozen=True)
class Options:
    """What `autoresearch check` was asked for."""

    task: TaskOptions = field(default_factory=TaskOptions)
    where: FolderOptions = field(default_factory=FolderOptions)
    start: ConstantsOptions = field(default_factory=ConstantsOptions)
    program: Path = option(Path("./program.md"), "the page of instructions", in_run=InRun.FREE)
    editable: Path = option(
        DEFAULT_EDITABLE, "the file to edit; with --task=command task.toml names it", in_run=InRun.BOUND
    )
    max_literal_bytes: int = option(
        MAX_LITERAL_BYTES,
        "reject a text whose literals hold more bytes than this beyond those of the run's baseline",
        least=0,
        in_run=InRun.FREE,
    )
    as_is: bool = option(False, "take the text as it stands, where it is a change of an earlier champion")
    format: str = format_option()

    def __post_init__(self) -> None:
        object.__setattr__(self, "editable", self.task.editable(self.editable))


@dataclass(frozen=True)
class RunTexts:
    """What a text is compared with: the champions of a run, what a proposer would be told now, scores for people."""

    champions: Mapping[int, str]
    brief: Brief
    scores: Mapping[int, str]

    @classmethod
    def read(cls, options: Options) -> "RunTexts | None":
        """Reads a run; None where none is named, or none of that tag has begun, of which a notice tells.

        Raises:
          UserError: its baseline is not measured, it began with other constants, or the tag is that of lineages.
        """
        where = options.where
        if not where.tag:
            return None
        if not where.folder.ledger.exists() and Lineages.read(where.folder) is None:
            there = where.tags("; there are ")
            _say(f"{where.folder.path}: no run of this tag has begun: checked against the flags alone{there}")
            return None
        folder = where.existing
        with closing(Ledger.open_to_read(folder.ledger)) as ledger, ledger.as_of_now():
            require_began_with(ledger.experiments(), options.start.constants)
            brief = read_brief(ledger, folder, options.program, None, Asking(), _say)
            rows = [row for row in ledger.experiments() if row.score is not None]
            scores = {row.id: plus_minus(Estimate(score_of(row), row.error or 0.0)) for row in rows}
            return cls(kept_texts(ledger), brief, scores)

    @property
    def baseline(self) -> str:
        """The text that the run began with."""
        return self.champions[min(self.champions)]


def run(options: Options, arguments: list[str]) -> int:
    """Checks the text, and prints what was found."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: one file at a time")
    path = Path(arguments[0]) if arguments else options.editable
    asset = options.task.asset
    source = read_source(path, "behind `check`", asset)
    texts = RunTexts.read(options)
    found: dict[str, Any] = {"file": str(path)}
    if (fault := syntax_fault(path, source, asset)) is not None:
        found |= {"outcome": str(Status.REJECTED), "reason": fault}
    else:
        kept, source = _beginning(options, source) if texts is None else (texts.champions, source)
        if kept and not options.as_is and source not in kept.values():
            tag = options.where.tag if texts is not None else None
            source = _carried_over(options, path, source, kept, tag)
        found |= check_text(options, path, source, texts)
    if options.format == "json":
        print(json.dumps(found, indent=1))
    else:
        details = found.pop("details", None)
        print_lines(found, sys.stdout)
        if details:
            print(f"\n{clean_block(details, MAX_DETAILS)}")
    return 0 if found["outcome"] == Status.OK else NOT_MEASURED


def _beginning(options: Options, source: str) -> tuple[Mapping[int, str], str]:
    """The baseline of a run that would begin with --set, by its number, and the text; what is committed is the former.

    Raises:
      UserError: it has no such constants.
    """
    if not options.start.constants:
        return {}, source
    committed = committed_text(options.editable, os.environ)
    try:
        text = options.task.asset.set_constants(source if committed is None else committed, options.start.constants)
    except (ConstantError, AssetSyntaxError) as error:
        raise UserError(f"--set: {options.editable}: {error}") from error
    return {0: text}, text if source == committed else source


def _carried_over(options: Options, path: Path, source: str, kept: Mapping[int, str], tag: str | None) -> str:
    """A text as a change of the present champion, see `base_of`; `tag` is that of a run that has begun."""
    asset, champion = options.task.asset, kept[max(kept)]
    merge, committed = Git(Path.cwd(), os.environ).merge, committed_text(options.editable, os.environ)
    show = None if tag is None else show_champion(tag, options.editable)
    base = base_of(asset, path, source, kept, committed, merge, show, _say)
    return rebase_text(asset, source, base, champion, merge) or source


def check_text(options: Options, path: Path, source: str, texts: RunTexts | None) -> dict[str, Any]:
    """Traces a text; returns its outcome, and what is known of it.

    Raises:
      UserError: dataset, device or sandbox are not there.
    """
    found: dict[str, Any] = {"outcome": str(Status.OK), "reason": None}
    if texts is not None:
        found |= _compared(options.task.asset, source, texts)
    with tempfile.TemporaryDirectory(prefix="autoresearch-check-") as scratch:
        folder = RunFolder(Path(scratch).resolve() / "check")
        folder.create()
        with closing(options.task.make_task(folder.path, options.editable, one_trial=True)) as task:
            precheck = Precheck(task, folder, options.max_literal_bytes)
            precheck.baseline = None if texts is None else texts.baseline
            try:
                candidate = precheck.prepare(source, 0)
            except CandidateRejected as rejection:
                return {
                    **found,
                    "outcome": str(rejection.status),
                    "reason": clean_line(rejection.reason),
                    "details": rejection.details,
                }
    found |= {"program": candidate.program_hash, **candidate.facts}
    if texts is None:
        return found
    scores = None if (path.parent / BRIEF_FILE).exists() else texts.scores  # a driver's agent gets no finer ones
    if (repeated := repetition(texts.brief, source, candidate.program_hash, scores)) is not None:
        found |= {"outcome": str(Status.DUPLICATE), "reason": repeated.text}
    lost = table_objection(texts.brief, source)
    return {**found, "objection": None if lost is None else lost.text}


def _compared(asset: AssetKind, source: str, texts: RunTexts) -> dict[str, Scalar]:
    """What a text changes of the champion's, and how many bytes it holds that the baseline does not."""
    brief = texts.brief
    changed, listed = compare(brief.champion_source, source), [constant.name for constant in brief.space]
    nodes, champion_nodes = asset.size(source, listed), asset.size(brief.champion_source, listed)
    before, after = brief.champion_constants, known_constants(asset, source)
    moved = [
        f"{name} {before.get(name)!r} -> {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or not same_value(before[name], after[name])
    ]
    return {
        "champion_experiment": max(texts.champions),
        "lines_added": changed.added,
        "lines_removed": changed.removed,
        "nodes_added": None if nodes is None or champion_nodes is None else nodes - champion_nodes,
        "constants": clean_line(", ".join(moved)) or None,
        "literal_bytes": asset.carried_bytes(source, texts.baseline),
    }
