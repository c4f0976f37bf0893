"""docs/reference/flags.md says what the commands declare."""

import importlib
from pathlib import Path

import pytest


def test_the_page_of_flags_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    reference = importlib.import_module("make_reference")
    assert reference.PAGE.read_text(encoding="utf-8") == reference.flags_page(), "run python scripts/make_reference.py"
