"""List prices, their tiers, and the days they hold."""

from datetime import date

import pytest

from autoresearch_jax.proposers.gemini_settings import DEFAULT_MODEL, GeminiOptions, price_on
from autoresearch_jax.proposers.prices import PRICES, Price, Usage, list_price

TODAY = date(2026, 11, 25)


def test_input_and_output_have_their_own_price():
    assert Price(2.0, 10.0).dollars(Usage(500_000, 100_000)) == pytest.approx(2.0)


def test_a_long_prompt_costs_more_from_its_first_token_on():
    price = Price(2.0, 12.0, 4.0, 18.0)
    assert price.dollars(Usage(200_000, 1000)) == pytest.approx(0.4 + 0.012)
    assert price.dollars(Usage(200_001, 1000)) == pytest.approx(0.800004 + 0.018)


def test_a_price_without_a_long_one_is_flat():
    assert Price(2.0, 12.0).dollars(Usage(1_000_000, 0)) == pytest.approx(2.0)


def test_an_announced_price_holds_from_its_day_on():
    assert list_price("gemini-3.8-flash", date(2026, 12, 31)) == Price(0.75, 3.75)
    assert list_price("gemini-3.8-flash", date(2027, 1, 1)) == Price(1.50, 7.50)


@pytest.mark.parametrize("name", ["models/gemini-2.5-pro", "publishers/google/models/gemini-2.5-pro"])
def test_folders_before_the_name_do_not_matter(name):
    assert list_price(name, TODAY) == list_price("gemini-2.5-pro", TODAY) is not None


def test_nothing_is_guessed_of_a_model_that_is_not_listed():
    assert list_price("gemini-2.5-pro-exp-1206", TODAY) is None
    assert list_price("gemini-2.5", TODAY) is None


def test_every_listed_model_has_a_price_today_and_the_default_is_one_of_them():
    assert all(list_price(model, TODAY) is not None for model in PRICES)
    assert DEFAULT_MODEL in PRICES


def test_the_users_price_goes_before_the_list():
    assert price_on(GeminiOptions(price=Price(1.0, 2.0)), TODAY) == Price(1.0, 2.0)


def test_a_region_of_vertex_ai_has_prices_of_its_own():
    assert price_on(GeminiOptions(vertex_project="p"), TODAY) == list_price(DEFAULT_MODEL, TODAY)
    assert price_on(GeminiOptions(vertex_project="p", vertex_location="europe-west4"), TODAY) is None
