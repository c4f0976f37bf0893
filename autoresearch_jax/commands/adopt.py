"""`autoresearch adopt PEER`: a peer's whole champion as one experiment of a run.

    autoresearch adopt alice --tag=tonight

It is taken as it was read last in the peer's chain (docs/guide/swarm.md) and measured against this run's champion as
it stands, by hand as with `autoresearch try`: status 0 if it is kept, and the run goes on from it, 3 if discarded,
4 if it cannot be measured. The commit names the peer in `Adopted-From`.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_jax.commands.hand_text import TextOptions, Words
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.commands.try_ import Change, require_one_lineage, try_change
from autoresearch_jax.commands.try_ import Options as TryOptions
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.chain import Champion
from autoresearch_jax.swarm.contents import read_swarm
from autoresearch_jax.swarm.membership import SwarmFolder, check_name

TAKES_ARGUMENTS = True
TAKES_RUN_FLAGS = True
CATEGORY = "adoption"


@dataclass(frozen=True)
class Options:
    """What `autoresearch adopt` was asked for."""

    run: RunOptions = field(default_factory=RunOptions)
    no_wait: bool = option(
        False, "put it at the end of the run's queue and end: its driver, or the next one, takes it up"
    )
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Measures the champion of the peer that is named."""
    if len(arguments) != 1:
        raise UsageError("adopt takes the name of one peer: autoresearch adopt alice --tag=tonight")
    check_name(name := arguments[0])
    where = options.run.where
    if not where.folder.ledger.is_file():
        there = where.tags("; there are ")
        raise UsageError(f"--tag={where.tag}: no such run yet in {where.run_dir}: begin it, `autoresearch run`{there}")
    champion = read_champion_of(name, Path(options.run.where.run_dir))
    words = Words(hypothesis_of(champion), CATEGORY)
    tried = TryOptions(run=options.run, text=TextOptions(as_is=True), no_wait=options.no_wait, format=options.format)
    require_one_lineage(tried)
    path = options.run.editable
    return try_change(tried, Change(path, champion.text, words, adopted_from=name))


def read_champion_of(name: str, run_dir: Path) -> Champion:
    """The champion of a peer, as it was read last.

    Raises:
      UserError: none was read, or the folder is no peer's.
    """
    swarm = read_swarm(SwarmFolder(run_dir), os.environ)
    if name == swarm.settings.name:
        raise UsageError(f"adopt {name}: that is this peer itself: name another, see `autoresearch swarm peers`")
    if (champion := swarm.champions.get(name)) is None:
        why = "blocked" if name in swarm.blocked else "none was read"
        raise UserError(f"{name}: no champion of this peer ({why}): `autoresearch swarm sync`, then `swarm peers`")
    return champion


def hypothesis_of(champion: Champion) -> str:
    """What it is, in one clean line of the peer's own figures."""
    words = champion.words
    known = {name: clean_line(str(words[name]), 60) for name in ("metric", "score", "device_class") if name in words}
    figures = f"{known.get('metric', 'score')} {known.get('score', 'not told')}"
    device = f" on {known['device_class']}" if "device_class" in known else ""
    return clean_line(f"The champion of peer {champion.peer}, by its words {figures}{device}")
