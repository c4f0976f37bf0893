"""The shipped ideas: pages that can be read, changes that fit their bases, and programs that keep the contract."""

from pathlib import Path

import pytest

from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.errors import UserError
from autoresearch_jax.findings.folder import BASES, SHIPPED
from autoresearch_jax.findings.format import Finding, base_digest, changed_base, finding_text, read_finding
from autoresearch_jax.proposers.base import DEFAULT_CATEGORIES
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.trace import ContractError, trace

PAGES = sorted(SHIPPED.glob("*.md"))
BASE_TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in (SHIPPED / BASES).glob("*.txt")}
TASK = TaskSpec(vocab_sizes=(1024, 2048, 4096), sequence_length=256, budget_seconds=60.0)  # as configs/cpu.flags
JUDGE_BATCH_ROWS = (4,)
WIDTH = 100  # of prose
SAMPLE = (  # of each kind of change one: constants, code of a layer, parameters, the state, phases, the optimizer
    "value-residual",
    "stochastic-depth",
    "tied-embeddings",
)


@pytest.fixture(scope="module")
def library() -> dict[str, Finding]:
    return {path.stem: read_finding(path) for path in PAGES}


def test_every_page_says_what_it_is_and_where_it_comes_from(library: dict[str, Finding]) -> None:
    assert len(library) >= 40
    for name, finding in library.items():
        page = (SHIPPED / f"{name}.md").read_text(encoding="utf-8")
        assert finding.category in DEFAULT_CATEGORIES, name
        assert finding.source.startswith("https://"), name
        lines = finding.about.splitlines()
        assert 2 <= len(lines) <= 5, name
        assert max(map(len, lines)) <= WIDTH, name
        assert finding_text(finding) == page, name  # as `write_finding` writes it, so that evidence adds lines alone


def test_no_two_ideas_make_the_same_text(library: dict[str, Finding]) -> None:
    texts: dict[str, str] = {}
    for name, finding in library.items():
        text = changed_base(finding, BASE_TEXTS[finding.base])
        assert texts.setdefault(text, name) == name
    assert all(base_digest(text) == stem for stem, text in BASE_TEXTS.items())


@pytest.mark.parametrize("name", SAMPLE)
def test_an_idea_traces(name: str, library: dict[str, Finding], tmp_path: Path) -> None:
    assert _why_not(library[name], tmp_path) is None


@pytest.mark.slow
def test_all_ideas_trace_in_one_process(library: dict[str, Finding], tmp_path: Path) -> None:
    assert {name: why for name, finding in library.items() if (why := _why_not(finding, tmp_path / name))} == {}


def _why_not(finding: Finding, folder: Path) -> str | None:
    """Why an idea's program cannot be traced; None if it can."""
    programs_dir, source_path = folder / "programs", folder / "train_lib.py"
    programs_dir.mkdir(parents=True)
    try:
        source_path.write_text(changed_base(finding, BASE_TEXTS[finding.base]), encoding="utf-8")
        trace(source_path, TASK, make_mesh({"data": 1, "model": 1}), JUDGE_BATCH_ROWS, programs_dir)
    except (UserError, ContractError, TypeError, ValueError, AttributeError, NameError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None
