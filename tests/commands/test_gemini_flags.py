"""Flags and environment of the gemini proposer: three ways in, limits, prices, and what is refused in one line."""

import subprocess
import sys

import pytest
from absl import flags
from fakes import SOURCE
from gemini_server import KEY, GeminiServer, answer, llm_dir

from autoresearch_jax.commands.gemini_flags import (
    check_gemini_flags,
    define_gemini_flags,
    gemini_options,
    make_gemini,
    require_price,
)
from autoresearch_jax.errors import UsageError
from autoresearch_jax.proposers.base import Brief
from autoresearch_jax.proposers.llm_budget import DEFAULT_MODEL, GeminiOptions, Limits, Price
from autoresearch_jax.types import Metric

WITH_KEY = {"GEMINI_API_KEY": KEY}


def parsed(*arguments: str) -> flags.FlagValues:
    flag_values = flags.FlagValues()
    define_gemini_flags(flag_values)
    flag_values(["run", *arguments])
    return flag_values


def options(*arguments: str, **environment: str) -> GeminiOptions:
    found = gemini_options(parsed(*arguments), environment or WITH_KEY)
    assert found is not None
    return found


def refusal(*arguments: str, **environment: str) -> str:
    with pytest.raises(UsageError) as error:
        options(*arguments, **environment)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_key_is_enough():
    found = options()
    assert (found.model, found.key, found.base_url, found.vertex_project) == (DEFAULT_MODEL, KEY, None, None)
    assert found.limits == Limits()


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
        limits=Limits(5.0, 6, 7),
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
    assert gemini_options(parsed(), environment, required=False) is None


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--gemini_model=", "--gemini_model="),
        ("--gemini_model=a?b", "--gemini_model=a?b"),
        ("--gemini_model=../x", "--gemini_model=../x"),
        ("--gemini_base_url=box:8080", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://box:x", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://box?key=1", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://a b", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://a\nb", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://a..b", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://a,b", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://a/b c", "http://127.0.0.1:8080"),
        ("--gemini_base_url=http://me:hush@box", "leave out name and password"),
        ("--gemini_vertex_location=us-central1", "needs --gemini_vertex_project"),
        ("--gemini_vertex_project=a/b", "--gemini_vertex_project=a/b"),
        ("--max_dollars=-1", "--max_dollars=-1"),
        ("--max_dollars=nan", "--max_dollars=nan"),
        ("--temperature=-1", "--temperature=-1"),
        ("--proposal_seconds=0", "--proposal_seconds=0"),
        ("--proposal_seconds=inf", "--proposal_seconds=inf"),
        ("--model_price=1", "--model_price=1: expected IN,OUT"),
        ("--model_price=1,2,3", "expected IN,OUT"),
        ("--model_price=1,-2", "expected IN,OUT"),
        ("--model_price=free,free", "expected IN,OUT"),
    ],
)
def test_values_that_make_no_sense(argument, expected):
    words = refusal(argument)
    assert expected in words
    assert "hush" not in words


@pytest.mark.parametrize(
    "argument", ["--max_tokens=-1", "--max_requests=-1", "--repair_rounds=-1", "--max_output_tokens=0"]
)
def test_numbers_below_their_least(argument):
    with pytest.raises(flags.IllegalFlagValueError):
        parsed(argument)


@pytest.mark.parametrize(
    "argument", ["--max_dollars=nan", "--temperature=inf", "--gemini_base_url=http://a b", "--model_price=1"]
)
def test_values_that_make_no_sense_can_be_refused_without_a_way_to_a_model(argument):
    with pytest.raises(UsageError, match=argument.split("=")[0]):
        check_gemini_flags(parsed(argument))
    check_gemini_flags(parsed())


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
    require_price(options())
    with pytest.raises(UsageError, match=r"^program.md:12: the price of my-model is not known"):
        require_price(options("--gemini_model=my-model"), "program.md:12")


def test_the_proposer_proposes(tmp_path):
    with GeminiServer([answer([("LR = 0.5", "LR = 0.1")])], key=KEY) as server:
        proposer = make_gemini(
            options(f"--gemini_base_url={server.url}"),
            editable_name="train_lib.py",
            examine=None,
            llm_dir=llm_dir(tmp_path),
            brief_tokens=5000,
        )
        assert (proposer.name, proposer.check_model()) == ("gemini", None)
        brief = Brief(3, 0, Metric("loss"), "# A page\n", (), SOURCE, {}, 1.98, ())
        assert proposer.asks_ahead(brief)
        assert proposer.propose(brief).source == SOURCE.replace("LR = 0.5", "LR = 0.1")
        proposer.close()


def test_who_asks_no_model_does_not_wait_for_google_genai():
    script = "import sys, autoresearch_jax.commands.gemini_flags\nassert 'google.genai' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
