"""What `autoresearch run` is asked to do: its options, which other commands about a run share."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from autoresearch_jax.assets.python_size import MAX_LITERAL_BYTES
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import ConstantsOptions, InRun, option, tensorboard_option
from autoresearch_jax.commands.proposer_options import ProposerOptions
from autoresearch_jax.commands.task_options import DEFAULT_EDITABLE, TaskOptions
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import CONFIDENCE, DecisionRule, GreedyRule, LineageRule, LineageSettings
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import DEFAULT_CATEGORIES
from autoresearch_jax.snapshots.retention import Keeping
from autoresearch_jax.types import Metric

GIB = 2**30


@dataclass(frozen=True)
class DecisionOptions:
    """What keeps and discards, what certification may spend, and whether hopeless trials are stopped early."""

    decision: str = option(
        "lineage",
        "the rule: lineage keeps what all runs so far call probably better, and certifies it later; greedy keeps what "
        "came out better in one run, luck included, and has no use for the flags below",
        choices=("lineage", "greedy"),
        in_run=InRun.BOUND,
    )
    confidence: str = option(
        "balanced",
        "how sure a keep must be: fast gains most, strict keeps next to nothing without effect",
        choices=tuple(CONFIDENCE),
        in_run=InRun.BOUND,
    )
    keep_probability: float | None = option(
        None, "least probability of a gain that keeps, in place of --confidence's", in_run=InRun.BOUND
    )
    run_worth: float | None = option(
        None,
        "discard a candidate once a further run of it is expected to gain less than this many times what a run gained "
        "on average so far, in place of --confidence's",
        in_run=InRun.BOUND,
    )
    max_runs: int | None = option(None, "most runs of one candidate, in place of --confidence's", in_run=InRun.BOUND)
    baseline_runs: int = option(
        LineageSettings().baseline_runs,
        "runs of the baseline before anything is compared with it; the noise is first known from their spread",
        in_run=InRun.BOUND,
    )
    memory_percent: float = option(
        LineageSettings().memory_percent,
        "percent of peak memory over the baseline's that cost nothing; each further step of that size asks for a sigma",
        in_run=InRun.BOUND,
    )
    nodes_price: float = option(
        LineageSettings().nodes_price, "sigma of gain that 100 added syntax nodes ask for", in_run=InRun.BOUND
    )
    loss_allowance: float = option(
        LineageSettings().loss_allowance,
        "sigma that simplifications may lose in all since the last gain",
        in_run=InRun.BOUND,
    )
    certify_share: float = option(
        CertificationSettings().share,
        "largest share of a run's trials for certification: the champion afresh, and without edits that are in doubt",
        in_run=InRun.BOUND,
    )
    certify_every: int = option(
        CertificationSettings().every,
        "keeps after which doubtful edits are looked at; 0 for only at the end of the run",
        in_run=InRun.BOUND,
    )
    prune: bool = option(
        True,
        "stop a candidate's first trial once its losses lie so far above the champion's that it has next to no chance "
        "to end better; how far is learnt from the run's own trials",
        in_run=InRun.BOUND,
    )

    def __post_init__(self) -> None:
        self.settings()
        self.certification()

    def settings(self) -> LineageSettings | None:
        """Settings of the lineage rule; None if the greedy one was chosen.

        Raises:
          UsageError: a value that makes no sense.
        """
        if self.decision == "greedy":
            return None
        given = {field.name: getattr(self, field.name) for field in fields(LineageSettings)}
        own = {name: value for name, value in given.items() if value is not None}
        return LineageSettings(**{**CONFIDENCE[self.confidence], **own})

    def rule(self, metric: Metric) -> DecisionRule:
        """The rule."""
        settings = self.settings()
        return GreedyRule(metric) if settings is None else LineageRule(metric, settings)

    def certification(self) -> CertificationSettings | None:
        """What certification may spend; None under the greedy rule.

        Raises:
          UsageError: a value that makes no sense.
        """
        if self.decision == "greedy":
            return None
        return CertificationSettings(share=self.certify_share, every=self.certify_every)

    def pruning(self) -> Pruning | None:
        """When hopeless trials are stopped; None for never."""
        return Pruning() if self.prune else None


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
