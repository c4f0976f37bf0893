"""What `autoresearch run` is asked to do: its options, which other commands about a run share."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_jax.assets.python_size import MAX_LITERAL_BYTES
from autoresearch_jax.commands.decision_options import DecisionOptions
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import ConstantsOptions, InRun, option, tensorboard_option
from autoresearch_jax.commands.proposer_options import ProposerOptions
from autoresearch_jax.commands.task_options import DEFAULT_EDITABLE, TaskOptions
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import DEFAULT_CATEGORIES
from autoresearch_jax.snapshots.retention import Keeping

GIB = 2**30


@dataclass(frozen=True)
class SnapshotOptions:
    """Which snapshots a run keeps and where, and how much of the disk it leaves free."""

    keep_last: int = option(
        Keeping().last,
        "keep the snapshots of this many of the last experiments, beside those of champions",
        least=0,
        in_run=InRun.FREE,
    )
    keep_best: int = option(
        Keeping().best, "keep the snapshots of this many of the best experiments, too", least=0, in_run=InRun.FREE
    )
    snapshot_dir: str | None = option(
        None,
        "move snapshots to TAG in this folder, or bucket such as gs://BUCKET/FOLDER, instead of keeping them in the "
        "run's folder",
        path=True,
        in_run=InRun.FREE,
    )
    min_free_gb: float = option(
        1.0,
        "stop, to go on later, where the run's folder would be left with less free space (GiB)",
        least=0,
        in_run=InRun.FREE,
    )

    def __post_init__(self) -> None:
        if self.snapshot_dir is not None and not self.snapshot_dir.strip("/"):
            raise UsageError(
                f"--snapshot_dir={self.snapshot_dir}: name a folder, or a bucket such as gs://BUCKET/FOLDER"
            )

    def keeping(self, tag: str) -> Keeping:
        """Which snapshots are kept, and where."""
        place = None if self.snapshot_dir is None else f"{self.snapshot_dir.rstrip('/')}/{tag}"
        return Keeping(self.keep_last, self.keep_best, place)

    @property
    def min_free_bytes(self) -> int:
        """Free space that a run leaves."""
        return int(self.min_free_gb * GIB)


@dataclass(frozen=True)
class RunOptions:
    """What `autoresearch run` was asked to do."""

    task: TaskOptions = field(default_factory=TaskOptions)
    where: FolderOptions = field(default_factory=FolderOptions)
    decision: DecisionOptions = field(default_factory=DecisionOptions)
    proposer: ProposerOptions = field(default_factory=ProposerOptions)
    snapshots: SnapshotOptions = field(default_factory=SnapshotOptions)
    start: ConstantsOptions = field(default_factory=ConstantsOptions)
    program: Path = option(Path("./program.md"), "the page of instructions", in_run=InRun.FREE)
    editable: Path = option(
        DEFAULT_EDITABLE, "the file to edit; with --task=command task.toml names it", in_run=InRun.BOUND
    )
    seed: int | None = option(
        None, "source of every seed; by default random, and kept when a run resumes", least=0, in_run=InRun.BOUND
    )
    experiments: int | None = option(
        None, "end after this many, in place of what program.md says of experiments", least=0, in_run=InRun.FREE
    )
    max_literal_bytes: int = option(
        MAX_LITERAL_BYTES,
        "reject a candidate whose literals hold more bytes than this beyond those of the run's baseline",
        least=0,
        in_run=InRun.FREE,
    )
    tensorboard: bool = tensorboard_option()
    lineages: int = option(
        1,
        "runs TAG-1, TAG-2, ... beside each other, each with a branch of its own and a share of the --workers, that "
        "adopt findings from each other; --experiments and the limits of program.md are for each; see "
        "docs/guide/many-workers.md",
        least=1,
        in_run=InRun.BOUND,
    )
    swarm: bool = option(
        False, "share findings with peers while it runs, see `autoresearch swarm join`", in_run=InRun.FREE
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "editable", self.task.editable(self.editable))
        named = self.task.command.proposals.categories if self.task.is_command else ()
        if named and self.proposer.categories == DEFAULT_CATEGORIES:
            object.__setattr__(self, "proposer", replace(self.proposer, categories=named))
