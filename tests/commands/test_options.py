"""Options: from fields to flags and back; the rule's, and those of a Gemini model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from gemini_server import KEY

from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.options import (
    InRun,
    define_options,
    given_flags,
    option,
    options_table,
    parse_settings,
    read_options,
)
from autoresearch_jax.commands.proposer_options import ModelOptions, require_price
from autoresearch_jax.commands.run_options import DecisionOptions, RunOptions
from autoresearch_jax.commands.task_options import TaskOptions, parse_mesh
from autoresearch_jax.decide.certification import CertificationSettings
from autoresearch_jax.decide.rule import CONFIDENCE, GreedyRule, LineageRule, LineageSettings
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.llm_budget import DEFAULT_MODEL, GeminiOptions, Price, SpendingLimits
from autoresearch_jax.types import Metric

METRIC = Metric("loss")


def read(options_type: type, *words: str) -> Any:
    values = flags.FlagValues()
    define_options(values, options_type)
    values(["autoresearch", *words])
    return read_options(values, options_type)


@dataclass(frozen=True)
class Inner:
    size: int | None = option(None, "a size", least=1, most=9, hint="such as 3")
    share: float = option(0.5, "a share", above=0)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    kind: str = option("one", "a kind", choices=("one", "two"))
    where: Path = option(Path("here"), "a place")
    sizes: tuple[int, ...] = option((1, 2), "sizes")
    origin: str | None = option(None, "an origin", flag="from")
    words: tuple[str, ...] = option((), "words", repeated=True)
    fast: bool = option(False, "fast")


def test_options_become_flags_and_are_read_back():
    assert read(Outer) == Outer()
    found = read(Outer, "--size=3", "--where=a/b", "--sizes=4,5", "--from=x", "--words=a,b", "--words=c", "--fast")
    assert found == Outer(Inner(3), "one", Path("a/b"), (4, 5), "x", ("a,b", "c"), True)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--size=0", "flag --size=0: must be at least 1 and at most 9, such as 3"),
        ("--size=10", "--size=10"),
        ("--size=x", "--size=x"),
        ("--share=0", "--share=0.0: must be above 0"),
        ("--share=nan", "--share=nan"),
        ("--kind=three", "--kind=three"),
        ("--sizes=1,b", "--sizes=1,b: expected whole numbers, by commas"),
        ("--strange", "strange"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_flag(word: str, says: str):
    with pytest.raises((UsageError, flags.Error)) as caught:
        read(Outer, word)
    assert says in str(caught.value)


def test_options_are_described_for_help_and_as_a_table():
    lines = options_table(Outer).splitlines()
    assert lines[0] == "| option | default | meaning |"
    assert "| `--size` |  | a size |" in lines
    assert "| `--kind` | `one` | one\\|two: a kind |" in lines
    assert "| `--sizes` | `1,2` | sizes |" in lines
    assert "| `--fast` | `false` | fast |" in lines


def test_settings_are_python_literals_or_text() -> None:
    settings = parse_settings(["A=1", "B=2.5e-3", "C=SSSL", "D='x y'", "E=True", "F=a=b", "G={[]: 1}"])
    assert settings == {"A": 1, "B": 0.0025, "C": "SSSL", "D": "x y", "E": True, "F": "a=b", "G": "{[]: 1}"}


def test_mesh_names_its_axes() -> None:
    assert parse_mesh("") is None
    assert parse_mesh("model=2") == {"data": 1, "model": 2}
    with pytest.raises(UsageError):
        parse_mesh("rows=2")


def test_a_budget_in_steps_goes_before_seconds() -> None:
    assert read(TaskOptions, "--budget_seconds=600", "--budget_steps=7").budget.steps == 7
    assert read(TaskOptions).budget.seconds == 300


@pytest.mark.parametrize("word", ["--name=../x", "--name=.x", "--vocab_sizes=7", "--vocab_sizes=", "--num_shards=3"])
def test_a_dataset_that_cannot_be(word: str) -> None:
    with pytest.raises(UsageError, match=word.partition("=")[0]):
        read(DatasetOptions, word)


def test_without_flags_the_defaults_hold():
    values = read(DecisionOptions)
    assert values.settings() == LineageSettings()
    assert LineageSettings() == LineageSettings(**CONFIDENCE["balanced"])
    assert values.certification() == CertificationSettings()
    assert values.certification().share > 0, "on by default"
    assert values.pruning() is not None
    assert read(DecisionOptions, "--noprune").pruning() is None
    rule = values.rule(METRIC)
    assert rule == LineageRule(METRIC)
    assert rule.settings["decision"] == "lineage"


@pytest.mark.parametrize("name", ["fast", "balanced", "strict"])
def test_a_preset_sets_all_bounds(name):
    assert read(DecisionOptions, f"--confidence={name}").settings() == LineageSettings(**CONFIDENCE[name])


def test_prices_and_certification():
    words = ("--baseline_runs=5", "--memory_percent=10", "--nodes_price=0.2", "--loss_allowance=0")
    found = read(DecisionOptions, *words).settings()
    assert (found.baseline_runs, found.memory_percent, found.nodes_price, found.loss_allowance) == (5, 10.0, 0.2, 0.0)
    found = read(DecisionOptions, "--certify_share=0.3", "--certify_every=0").certification()
    assert found == CertificationSettings(share=0.3, every=0)


def test_greedy_has_no_use_for_them():
    values = read(DecisionOptions, "--decision=greedy", "--baseline_runs=1")
    assert values.settings() is None
    assert values.certification() is None
    assert values.rule(METRIC) == GreedyRule(METRIC)


@pytest.mark.parametrize(
    "word",
    [
        *("--baseline_runs=1", "--keep_probability=0.4", "--run_worth=inf", "--max_runs=0", "--memory_percent=0"),
        *("--nodes_price=-1", "--loss_allowance=inf", "--certify_share=1", "--certify_every=-1"),
    ],
)
def test_a_bound_that_makes_no_sense_is_named_with_its_flag(word):
    with pytest.raises((UsageError, flags.Error)) as caught:
        read(DecisionOptions, word)
    assert f"{word.partition('=')[0]}=" in str(caught.value)


WITH_KEY = {"GEMINI_API_KEY": KEY}


def options(*arguments: str, **environment: str) -> GeminiOptions:
    found = read(ModelOptions, *arguments).settings(environment or WITH_KEY)
    assert found is not None
    return found


def refusal(*arguments: str, **environment: str) -> str:
    with pytest.raises((UsageError, flags.Error)) as error:
        options(*arguments, **environment)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_key_is_enough():
    found = options()
    assert (found.model, found.key, found.base_url, found.vertex_project) == (DEFAULT_MODEL, KEY, None, None)
    assert found.limits == SpendingLimits()


def test_every_flag_arrives():
    found = options(
        "--gemini_model=gemini-2.5-pro",
        "--gemini_base_url=http://127.0.0.1:8080/relay",
        "--max_output_tokens=1000",
        "--temperature=0.5",
        "--repair_rounds=4",
        "--proposal_seconds=30",
        "--max_dollars=5",
        "--max_tokens=6",
        "--max_requests=7",
        "--model_price=1.5,2",
    )
    assert found == GeminiOptions(
        model="gemini-2.5-pro",
        key=KEY,
        base_url="http://127.0.0.1:8080/relay",
        secrets=(KEY,),
        max_output_tokens=1000,
        temperature=0.5,
        repair_rounds=4,
        proposal_seconds=30.0,
        limits=SpendingLimits(5.0, 6, 7),
        price=Price(1.5, 2.0),
    )


def test_the_other_variable_is_read_too_and_goes_before_it():
    assert options(GOOGLE_API_KEY=f" {KEY}\n").key == KEY
    both = options(GOOGLE_API_KEY="google-key-0123", GEMINI_API_KEY=KEY)
    assert both.key == "google-key-0123"
    assert set(both.secrets) == {KEY, "google-key-0123"}


def test_vertex_ai_takes_no_key_but_keeps_it_secret():
    found = options("--gemini_vertex_project=p")
    assert (found.key, found.vertex_project, found.vertex_location) == (None, "p", "global")
    assert found.secrets == (KEY,)
    assert options("--gemini_vertex_project=p", "--gemini_vertex_location=us-central1").vertex_location == "us-central1"


def test_a_service_of_ones_own_needs_no_key():
    assert options("--gemini_base_url=http://box:8080", HOME="/").key is None


@pytest.mark.parametrize("environment", [{"HOME": "/"}, {"GEMINI_API_KEY": "  "}])
def test_no_way_in_names_all_three(environment):
    words = refusal(**environment)
    for way in ("GEMINI_API_KEY", "--gemini_vertex_project", "--gemini_vertex_location", "--gemini_base_url"):
        assert way in words
    assert read(ModelOptions).settings(environment, required=False) is None


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--gemini_model=", "--gemini_model="),
        ("--gemini_model=a?b", "--gemini_model=a?b"),
        ("--gemini_model=../x", "--gemini_model=../x"),
        ("--gemini_base_url=box:8080", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://box:x", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://box?key=1", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://a b", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://a\nb", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://me:hush@box", "leave out name and password"),
        ("--gemini_vertex_location=us-central1", "needs --gemini_vertex_project"),
        ("--gemini_vertex_project=a/b", "--gemini_vertex_project=a/b"),
        ("--max_dollars=-1", "--max_dollars=-1"),
        ("--model_price=1", "--model_price=1: expected IN,OUT"),
        ("--model_price=1,-2", "expected IN,OUT"),
        ("--model_price=free,free", "expected IN,OUT"),
    ],
)
def test_values_that_make_no_sense(argument, expected):
    words = refusal(argument)
    assert expected in words
    assert "hush" not in words


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\x07b"])
def test_a_key_that_is_none_is_refused_without_saying_it(key):
    words = refusal(GEMINI_API_KEY=key)
    assert words.startswith("GEMINI_API_KEY:")
    assert key not in words


def test_a_limit_of_dollars_needs_a_price():
    words = refusal("--gemini_model=my-model", "--max_dollars=5")
    assert words.startswith("--max_dollars=5: the price of my-model is not known")
    assert "--model_price=IN,OUT" in words
    assert "--max_tokens" in words
    assert options("--gemini_model=my-model", "--max_dollars=5", "--model_price=0,0").price == Price(0.0, 0.0)
    assert options("--gemini_model=my-model", "--max_tokens=5").price is None


def test_a_region_of_vertex_ai_needs_a_price_as_well():
    words = refusal("--gemini_vertex_project=p", "--gemini_vertex_location=us-central1", "--max_dollars=5")
    assert f"the price of {DEFAULT_MODEL} in us-central1 is not known" in words
    options("--gemini_vertex_project=p", "--max_dollars=5")


def test_a_limit_of_dollars_from_elsewhere_is_named():
    require_price(options(), "program.md:12")
    with pytest.raises(UsageError, match=r"^program.md:12: the price of my-model is not known"):
        require_price(options("--gemini_model=my-model"), "program.md:12")


def test_the_flags_of_options_give_the_same_options_again() -> None:
    words = [
        *("--experiments=7", "--set=DEPTH=2", "--set=NAME=a, 'b'", "--noprune", "--vocab_sizes=512,1024"),
        *("--budget_steps=9", "--agent_command=sh -c 'x y'", "--tag=night", "--keep_last=0", "--data_dir=/x"),
    ]
    options = read(RunOptions, *words)
    found = given_flags(options)
    assert "--experiments=7" in found
    assert not [flag for flag in found if flag.startswith("--tag")]
    assert read(RunOptions, *found, "--tag=night") == options
    assert given_flags(options, kept=[InRun.MACHINE]) == ["--data_dir=/x"]
    assert given_flags(read(RunOptions)) == []


def test_a_number_that_has_no_default_can_be_none() -> None:
    assert read(RunOptions, "--experiments=7", "--experiments=none", "--max_dollars=none") == RunOptions()
    with pytest.raises(flags.Error):
        read(RunOptions, "--keep_last=none")
