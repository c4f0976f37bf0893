"""What a run is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import DecisionRule
from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.program import ProgramFile
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.engine.stopping import Interrupts
from autoresearch_jax.engine.task import Observer, SnapshotKeeper, Task
from autoresearch_jax.engine.workspace import Workspace
from autoresearch_jax.executors.base import Executor
from autoresearch_jax.proposers.base import Proposer
from autoresearch_jax.types import Scalar


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    task: Task
    executor: Executor
    proposer: Proposer
    precheck: Precheck
    rule: DecisionRule
    ledger: Ledger
    workspace: Workspace
    folder: RunFolder
    program: ProgramFile
    observer: Observer
    interrupts: Interrupts
    disk: DiskGuard
    retention: SnapshotKeeper | None = None  # None keeps all snapshots
    pruning: Pruning | None = None
    certification: CertificationSettings | None = None
    flags: Mapping[str, Scalar] = field(default_factory=dict)  # see `keep_to_settings`
