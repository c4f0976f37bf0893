"""Flags of the rule: presets, single bounds, prices, certification."""

import pytest
from absl import flags

from autoresearch_jax.commands.decision_flags import (
    decision_settings,
    define_decision_flags,
    make_certification,
    make_pruning,
    make_rule,
)
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import CONFIDENCE, GreedyRule, LineageRule, LineageSettings
from autoresearch_jax.errors import UsageError
from autoresearch_jax.types import Metric

METRIC = Metric("loss")


def parsed(*words: str) -> flags.FlagValues:
    values = flags.FlagValues()
    define_decision_flags(values)
    values(["autoresearch", *words])
    return values


def test_without_flags_the_defaults_hold():
    values = parsed()
    assert decision_settings(values) == LineageSettings()
    assert LineageSettings().bounds == CONFIDENCE["balanced"]
    assert make_certification(values) == CertificationSettings()
    assert make_certification(values).share > 0, "on by default"
    assert make_pruning(values) is not None
    assert make_pruning(parsed("--noprune")) is None
    rule = make_rule(decision_settings(values), METRIC)
    assert rule == LineageRule(METRIC)
    assert rule.settings["decision"] == "lineage"


@pytest.mark.parametrize("name", ["fast", "balanced", "strict"])
def test_a_preset_sets_all_bounds(name):
    assert decision_settings(parsed(f"--confidence={name}")).bounds == CONFIDENCE[name]


def test_the_presets_are_in_the_order_of_their_names():
    fast, balanced, strict = (CONFIDENCE[name].keep_probability for name in ("fast", "balanced", "strict"))
    assert 0.5 <= fast < balanced < strict < 1


def test_a_single_bound_takes_the_place_of_the_presets():
    words = ("--confidence=strict", "--keep_probability=0.8", "--max_runs=3")
    bounds = decision_settings(parsed(*words)).bounds
    assert (bounds.keep_probability, bounds.max_runs) == (0.8, 3)
    assert bounds.run_worth == CONFIDENCE["strict"].run_worth
    settings = make_rule(decision_settings(parsed(*words)), METRIC).settings
    assert (settings["keep_probability"], settings["max_runs"]) == (0.8, 3), "a run keeps to them"


def test_prices_and_certification():
    words = ("--baseline_runs=5", "--memory_percent=10", "--nodes_price=0.2", "--loss_allowance=0")
    found = decision_settings(parsed(*words))
    assert (found.baseline_runs, found.memory_percent, found.nodes_price, found.loss_allowance) == (5, 10.0, 0.2, 0.0)
    found = make_certification(parsed("--certify_share=0.3", "--certify_every=0"))
    assert found == CertificationSettings(share=0.3, every=0)


def test_greedy_has_no_use_for_them():
    values = parsed("--decision=greedy", "--baseline_runs=1")
    assert decision_settings(values) is None
    assert make_certification(values) is None
    assert make_rule(None, METRIC) == GreedyRule(METRIC)


@pytest.mark.parametrize(
    "word",
    [
        *("--baseline_runs=1", "--keep_probability=0.4", "--keep_probability=1.0", "--run_worth=0", "--run_worth=inf"),
        *("--max_runs=0", "--memory_percent=0", "--nodes_price=-1", "--loss_allowance=inf"),
        *("--certify_share=1", "--certify_share=-0.1", "--certify_every=-1"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_flag(word):
    values = parsed(word)
    with pytest.raises(UsageError) as caught:
        (decision_settings(values), make_certification(values))
    assert str(caught.value).startswith(f"{word.partition('=')[0]}=")
