"""The loop speaks of an asset and a metric: words of one task occur in none of its packages."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "autoresearch_jax"
PACKAGES = ("engine", "decide", "proposers", "report", "findings")
SUFFIXES = (".py", ".j2", ".js", ".css")
# Where "token" is another thing than a piece of a trained model's text.
OTHER_TOKENS = {
    "engine/page_sections.py": "what markdown-it makes of a page",
    "report/server.py": "the secret in a page's address",
    **dict.fromkeys(
        ("proposers/briefing.py", "proposers/command.py", "proposers/llm.py", "proposers/llm_budget.py"),
        "what an agent's model reads and is paid for",
    ),
    "proposers/llm_client.py": "credentials, and what a model is paid for",
    **dict.fromkeys(
        ("report/exchanges.py", "report/summary.py", "report/templates/parts.html.j2"), "what a model was paid for"
    ),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_loop_knows_no_language_model(package: str) -> None:
    found = {}
    for path in sorted((PACKAGE / package).rglob("*")):
        if path.suffix in SUFFIXES:
            name, text = path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8").lower()
            words = re.findall(r"bpb|vocab|training file|training\s+program|language[- ]model", text)
            words += re.findall("token", text) if name not in OTHER_TOKENS else []
            if words:
                found[name] = sorted(set(words))
    assert found == {}


def test_exceptions_are_needed() -> None:
    assert [name for name in OTHER_TOKENS if "token" not in (PACKAGE / name).read_text(encoding="utf-8").lower()] == []
