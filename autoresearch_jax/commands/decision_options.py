"""Options of the rule that keeps and discards, of certification, and of pruning."""

from dataclasses import dataclass, fields

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import CONFIDENCE, DecisionRule, GreedyRule, LineageRule, LineageSettings
from autoresearch_jax.types import Metric


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
