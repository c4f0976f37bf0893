"""A page about a run, or several beside each other: progress, what was kept, what helped, where the time went.

autoresearch report --tag=nov20                # runs/nov20/report.html and progress.png, to share
autoresearch report --tag=nov20,nov21          # compares runs: runs/report-nov20-nov21.html
autoresearch report --tag=nov20 --format=md    # runs/nov20/report.md, for a pull request
"""

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import option
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError
from autoresearch_jax.engine.state import FLAGS
from autoresearch_jax.errors import UsageError
from autoresearch_jax.files import write_whole
from autoresearch_jax.report.history import History, read_history
from autoresearch_jax.report.tables import format_lines
from autoresearch_jax.swarm.membership import SwarmFolder

MOST_RUNS = 5  # on one page: there are no more colours that can be told apart


@dataclass(frozen=True)
class Options:
    """What `autoresearch report` was asked for."""

    where: FolderOptions
    format: str = option("html", "html: a page for a browser, and a picture; md: Markdown", choices=("html", "md"))


def run(options: Options, arguments: list[str]) -> int:
    """Writes the page beside the ledger and prints where it is."""
    folders = named_folders(options.where)
    with ExitStack() as stack:
        ledgers = [stack.enter_context(closing(Ledger.open_to_read(folder.ledger))) for folder in folders]
        for ledger in ledgers:
            stack.enter_context(ledger.as_of_now())
        runs = [read_history(ledger, folder) for ledger, folder in zip(ledgers, folders, strict=True)]
        place = folders[0].path
        if len(folders) > 1:
            place = Path(options.where.run_dir) / f"report-{'-'.join(folder.path.name for folder in folders)}"
        peer = SwarmFolder(Path(options.where.run_dir)) if len(folders) == 1 else None
        try:
            written = _write(options.format, place, peer, runs, ledgers)
        except OSError as error:
            raise RunFolderError(f"{place}: the report cannot be written: {error.strerror}") from error
    print(format_lines(written))
    return 0


def _write(
    format: str, place: Path, peer: SwarmFolder | None, runs: Sequence[History], ledgers: Sequence[Ledger]
) -> dict[str, str]:
    """Writes the files in one run's folder, where a peer may be at work, or beside several; returns their paths."""
    is_one = peer is not None
    sources, commands = [ledger.source for ledger in ledgers], [again(run) for run in runs]
    from autoresearch_jax.report.swarm import SwarmReader

    swarm = None if peer is None else SwarmReader(peer, os.environ).read()
    if format == "md":
        from autoresearch_jax.report.markdown import markdown_page

        page = place / "report.md" if is_one else Path(f"{place}.md")
        write_whole(page, markdown_page(runs, sources, commands, swarm))
        return {"report": str(page)}
    from autoresearch_jax.report.page import static_page
    from autoresearch_jax.report.picture import progress_png

    page = place / "report.html" if is_one else Path(f"{place}.html")
    picture = place / "progress.png" if is_one else Path(f"{place}.png")
    write_whole(page, static_page(runs, sources, commands, swarm))
    write_whole(picture, progress_png(runs))
    return {"report": str(page), "picture": str(picture)}


def named_folders(where: FolderOptions) -> list[RunFolder]:
    """The runs that --tag names, by commas.

    Raises:
      UsageError: too many, or one twice.
    """
    tags = [tag for tag in (where.tag or "").split(",") if tag]
    if len(set(tags)) < len(tags):
        raise UsageError(f"--tag={where.tag}: names a run twice")
    if len(tags) > MOST_RUNS:
        raise UsageError(f"--tag={where.tag}: {len(tags)} runs; at most {MOST_RUNS} can be compared on one page")
    return [replace(where, tag=tag).existing for tag in tags] or [where.existing]


def again(run: History) -> str:
    """The commands that begin the run again."""
    commit = None if run.summary.baseline is None else run.summary.baseline.parent_commit
    flags, seed = str(run.settings.get(FLAGS) or ""), f"--seed={run.settings.get('seed')}"
    words = ["autoresearch run", f"--tag={shlex.quote(run.tag + '-again')}", flags, "" if seed in flags else seed]
    checkout = "" if commit is None else f"git checkout {commit}\n"
    if FLAGS not in run.settings:
        checkout += (
            "# its ledger does not have the flags that it was begun with; the settings below are what they gave\n"
        )
    return checkout + " ".join(word for word in words if word)
