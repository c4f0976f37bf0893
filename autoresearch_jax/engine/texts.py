"""Two texts compared: which is the shorter, and whether it gave up what program.md lists to be moved."""

from functools import lru_cache

from autoresearch_jax.engine.book import Ending
from autoresearch_jax.engine.constants import same_value
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.program import Program
from autoresearch_jax.engine.records import ExperimentRow, Verdict
from autoresearch_jax.engine.simplicity import syntax_nodes
from autoresearch_jax.types import Status


def compare_texts(ledger: Ledger, experiment: ExperimentRow, champion: ExperimentRow, program: Program) -> Ending:
    """Keeps the shorter of two texts of one program; the trials of the champion stand for both."""
    same = f"the same program as the champion (experiment {champion.id})"

    def ending(verdict: Verdict, reason: str) -> Ending:
        return Ending(Status.DUPLICATE, champion.score, verdict, f"{same} {reason}")

    listed = _listed(program)
    nodes, champion_nodes = (_count(ledger.source(row.id), listed) for row in (experiment, champion))
    if nodes is None or champion_nodes is None or nodes >= champion_nodes:
        more = "" if nodes is None or champion_nodes is None else f": {nodes} syntax nodes against {champion_nodes}"
        return ending(Verdict.DISCARD, f"in a text that is no shorter{more}")
    shorter = f"with {champion_nodes - nodes} fewer syntax nodes"
    page = program.path.name
    if lost := _lost_constants(experiment, champion, program):
        return ending(Verdict.DISCARD, f"{shorter}, but without {', '.join(lost)}, which {page} lists to be moved")
    # no trial ever told that the new value is as good: it only does nothing in the program of now
    constants = sorted(listed & champion.constants.keys())
    moved = [name for name in constants if not same_value(champion.constants[name], experiment.constants[name])]
    if moved:
        reason = f"{shorter}, but with another {', '.join(moved)}, which {page} lists: a value is kept for its score"
        return ending(Verdict.DISCARD, reason)
    return ending(Verdict.KEEP, f"{shorter}: a proven refactoring")


def nodes_added(ledger: Ledger, experiment: ExperimentRow, champion: ExperimentRow, program: Program) -> int:
    """Syntax nodes that a text has more than the champion's, negative if fewer.

    0 where that is not known, and for a shorter text that gave up a listed constant.
    """
    listed = _listed(program)
    nodes, champion_nodes = (_count(ledger.source(row.id), listed) for row in (experiment, champion))
    if nodes is None or champion_nodes is None:
        return 0
    if nodes < champion_nodes and _lost_constants(experiment, champion, program):
        return 0
    return nodes - champion_nodes


@lru_cache(maxsize=2)  # two texts are compared again and again until a decision falls
def _count(source: str, listed: frozenset[str]) -> int | None:
    return syntax_nodes(source, listed)


def _listed(program: Program) -> frozenset[str]:
    return frozenset(constant.name for constant in program.constants)


def _lost_constants(experiment: ExperimentRow, champion: ExperimentRow, program: Program) -> list[str]:
    """Listed constants that a text has no more: a number in place of its name is shorter, and cannot be moved."""
    return sorted(_listed(program) & champion.constants.keys() - experiment.constants.keys())
