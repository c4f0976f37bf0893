"""What the parts of a page say, without a browser."""

import re
from contextlib import closing
from dataclasses import replace

import pytest

from autoresearch_jax.decide.posterior import Estimate
from autoresearch_jax.engine.certifying import Certificate, Word
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.history import History, KeptEdit, read_history
from autoresearch_jax.report.page import run_parts


@pytest.fixture(scope="module")
def history(night: RunFolder) -> History:
    with closing(Ledger.open_to_read(night.ledger)) as ledger:
        return read_history(ledger, night)


def said_of(history: History, edit: KeptEdit) -> str:
    """What the page says of one kept edit, as text."""
    parts = run_parts(replace(history, kept=[edit]), lambda number: "", "")
    html = parts[f"kept-{edit.point.row.id}"].html
    return " ".join(re.sub("<[^>]*>", "", html).replace("&nbsp;", " ").split())


@pytest.fixture(scope="module")
def edit(history: History) -> KeptEdit:
    """A kept edit with a certificate."""
    found = Certificate(Word.KEPT, Estimate(0.01, 0.002), 0.8)
    return replace(history.kept[0], effect=found.gain, probability=found.probability, certificate=found)


def test_only_an_estimate_with_an_error_has_an_interval(history: History, edit: KeptEdit) -> None:
    assert "interval" in said_of(history, edit)
    greedy = replace(edit, effect=Estimate(0.01, 0.0), probability=None, certificate=None)
    assert "better" in said_of(history, greedy)
    assert "interval" not in said_of(history, greedy)


def test_a_probability_says_of_what_it_is(history: History, edit: KeptEdit) -> None:
    assert "real" in said_of(history, edit)
    revert = replace(edit, certificate=None)
    assert "takes out" in said_of(history, revert)
