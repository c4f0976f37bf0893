"""Flags of the rule that keeps and discards, and of what is not worth its whole budget."""

from absl import flags

from autoresearch_jax.measurement import Metric
from autoresearch_jax.search.decision import DecisionRule, GreedyDecision
from autoresearch_jax.search.pruning import Pruning
from autoresearch_jax.search.sequential import SequentialDecision, SequentialSettings

RULES = ("sequential", "greedy")
GREEDY_WARNING = "--decision=greedy keeps whatever came out better in one run each: part of its gain is luck"


def define_decision_flags(flag_values: flags.FlagValues) -> None:
    """Defines --decision, what the sequential rule is asked to find at what risk, and --prune."""
    default = SequentialSettings()
    flags.DEFINE_enum(
        "decision",
        "sequential",
        list(RULES),
        "the rule: sequential measures again until the difference is beyond noise; greedy keeps whatever came out "
        "better in one run, luck included, and has no use for the flags below",
        flag_values=flag_values,
    )
    for name, value, what in (
        ("alpha", default.alpha, "largest probability to keep a change without effect"),
        ("power", default.power, "smallest probability to keep a gain of --smallest_effect, but for --max_runs"),
        ("smallest_effect", default.smallest_effect, "smallest gain worth finding, in standard deviations of a run"),
        (
            "memory_percent",
            default.memory_percent,
            "peak memory above the baseline's that is free; as much again costs one smallest effect more",
        ),
    ):
        flags.DEFINE_float(name, value, what, flag_values=flag_values)
    flags.DEFINE_integer(
        "baseline_runs",
        default.baseline_runs,
        "runs of the baseline, and fresh ones of each new champion, before anything is compared with it",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_runs", default.max_runs, "most runs of one candidate, and of one champion", flag_values=flag_values
    )
    flags.DEFINE_boolean(
        "prune",
        True,
        "stop a candidate's first trial once its losses lie so far above the champion's that it has next to no chance "
        "to end better; how far is learnt from the run's own trials",
        flag_values=flag_values,
    )


def decision_settings(flag_values: flags.FlagValues) -> SequentialSettings | None:
    """What the sequential rule is asked for; None if the greedy one was chosen.

    Raises:
      UsageError: a value that makes no sense.
    """
    if flag_values.decision == "greedy":
        return None
    return SequentialSettings(
        alpha=flag_values.alpha,
        power=flag_values.power,
        smallest_effect=flag_values.smallest_effect,
        max_runs=flag_values.max_runs,
        baseline_runs=flag_values.baseline_runs,
        memory_percent=flag_values.memory_percent,
    )


def make_pruning(flag_values: flags.FlagValues) -> Pruning | None:
    """When hopeless trials are stopped; None for never."""
    return Pruning() if flag_values.prune else None


def make_rule(settings: SequentialSettings | None, metric: Metric) -> DecisionRule:
    """The rule of these settings."""
    return GreedyDecision(metric) if settings is None else SequentialDecision(metric, settings)
