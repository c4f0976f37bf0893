"""Flags of the rule that keeps and discards, of certification, and of trials that are stopped early."""

from dataclasses import replace

from absl import flags

from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import CONFIDENCE, DecisionRule, GreedyRule, LineageRule, LineageSettings
from autoresearch_jax.types import Metric

RULES = ("lineage", "greedy")
GREEDY_WARNING = "--decision=greedy keeps whatever came out better in one run each: part of its gain is luck"


def define_decision_flags(flag_values: flags.FlagValues) -> None:
    """Defines --decision, --confidence and its single bounds, the prices, certification, and --prune."""
    default, certification = LineageSettings(), CertificationSettings()
    flags.DEFINE_enum(
        "decision",
        "lineage",
        list(RULES),
        "the rule: lineage keeps what all runs so far call probably better, and certifies it later; greedy keeps what "
        "came out better in one run, luck included, and has no use for the flags below",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "confidence",
        "balanced",
        list(CONFIDENCE),
        "how sure a keep must be: fast gains most, strict keeps next to nothing without effect",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "keep_probability",
        None,
        "least probability of a gain that keeps, in place of --confidence's",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "run_worth",
        None,
        "give a candidate up once a further run of it gains less than this many times what runs of the night gain, "
        "in place of --confidence's",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_runs", None, "most runs of one candidate, in place of --confidence's", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "baseline_runs",
        default.baseline_runs,
        "runs of the baseline before anything is compared with it; the noise is first known from their spread",
        flag_values=flag_values,
    )
    for name, value, what in (
        (
            "memory_percent",
            default.memory_percent,
            "peak memory above the baseline's that is free; as much again asks for one sigma of gain",
        ),
        ("nodes_price", default.nodes_price, "sigma of gain that 100 added syntax nodes ask for"),
        ("loss_allowance", default.loss_allowance, "sigma that simplifications may lose in all since the last gain"),
        (
            "certify_share",
            certification.share,
            "most of a run's trials that certification may have: doubtful edits taken out, the champion run afresh",
        ),
    ):
        flags.DEFINE_float(name, value, what, flag_values=flag_values)
    flags.DEFINE_integer(
        "certify_every",
        certification.every,
        "keeps after which doubtful edits are looked at; 0 for only at the end of the run",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "prune",
        True,
        "stop a candidate's first trial once its losses lie so far above the champion's that it has next to no chance "
        "to end better; how far is learnt from the run's own trials",
        flag_values=flag_values,
    )


def decision_settings(flag_values: flags.FlagValues) -> LineageSettings | None:
    """Settings of the lineage rule; None if the greedy one was chosen.

    Raises:
      UsageError: a value that makes no sense.
    """
    if flag_values.decision == "greedy":
        return None
    single = {
        name: value
        for name in ("keep_probability", "run_worth", "max_runs")
        if (value := getattr(flag_values, name)) is not None
    }
    return LineageSettings(
        bounds=replace(CONFIDENCE[flag_values.confidence], **single),
        baseline_runs=flag_values.baseline_runs,
        memory_percent=flag_values.memory_percent,
        nodes_price=flag_values.nodes_price,
        loss_allowance=flag_values.loss_allowance,
    )


def make_certification(flag_values: flags.FlagValues) -> CertificationSettings | None:
    """What certification may spend; None under the greedy rule.

    Raises:
      UsageError: a value that makes no sense.
    """
    if flag_values.decision == "greedy":
        return None
    return CertificationSettings(share=flag_values.certify_share, every=flag_values.certify_every)


def make_pruning(flag_values: flags.FlagValues) -> Pruning | None:
    """When hopeless trials are stopped; None for never."""
    return Pruning() if flag_values.prune else None


def make_rule(settings: LineageSettings | None, metric: Metric) -> DecisionRule:
    """The rule of these settings."""
    return GreedyRule(metric) if settings is None else LineageRule(metric, settings)
