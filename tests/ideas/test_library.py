"""The shipped ideas: pages that can be read, changes that fit their bases, and programs that keep the contract."""

import contextlib
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from train_lib_source import TRAIN_LIB

from autoresearch_jax.contract import Experiment, TaskSpec
from autoresearch_jax.findings.folder import BASES, SHIPPED
from autoresearch_jax.findings.format import (
    Finding,
    FindingError,
    apply_finding,
    base_digest,
    changed_base,
    finding_text,
    read_finding,
)
from autoresearch_jax.proposers.base import DEFAULT_CATEGORIES
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.trace import trace

PAGES = sorted(SHIPPED.glob("*.md"))
BASE_TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in (SHIPPED / BASES).glob("*.txt")}
TASK = TaskSpec(vocab_sizes=(1024, 2048, 4096), sequence_length=256, budget_seconds=60.0)  # as configs/cpu.flags
MESH = make_mesh({"data": 1, "model": 1})
JUDGE_BATCH_ROWS = (4,)
WIDTH = 100  # of prose
SAMPLE = (  # that is traced as a trial is, one of each kind of change: of a layer, the parameters, the state
    "value-residual",
    "tied-embeddings",
    "stochastic-depth",
)


@pytest.fixture(scope="module")
def library() -> dict[str, Finding]:
    return {path.stem: read_finding(path) for path in PAGES}


def test_every_page_says_what_it_is_and_where_it_comes_from(library: dict[str, Finding]) -> None:
    assert len(library) >= 40
    for name, finding in library.items():
        assert finding.category in DEFAULT_CATEGORIES, name
        assert finding.source.startswith("https://"), name
        lines = finding.about.splitlines()
        assert 2 <= len(lines) <= 5, name
        assert max(map(len, lines)) <= WIDTH, name
        page = (SHIPPED / f"{name}.md").read_text(encoding="utf-8")
        assert finding_text(finding) == page, name  # as `write_finding` has it, so that evidence adds lines alone


def test_no_two_ideas_make_the_same_text(library: dict[str, Finding]) -> None:
    texts: dict[str, str] = {}
    for name, finding in library.items():
        assert texts.setdefault(changed_base(finding, BASE_TEXTS[finding.base]), name) == name
    assert all(base_digest(text) == stem for stem, text in BASE_TEXTS.items())


def test_most_ideas_fit_the_training_file_as_it_comes(library: dict[str, Finding]) -> None:
    source = TRAIN_LIB.read_text(encoding="utf-8")
    fitting = []
    for name, finding in library.items():
        with contextlib.suppress(FindingError):
            apply_finding(finding, source, None, lambda base, ours, theirs: None)
            fitting.append(name)
    assert len(fitting) >= 0.9 * len(library)


@pytest.mark.parametrize("name", SAMPLE)
def test_an_idea_traces(name: str, library: dict[str, Finding], tmp_path: Path) -> None:
    finding, path, programs_dir = library[name], tmp_path / "train_lib.py", tmp_path / "programs"
    path.write_text(changed_base(finding, BASE_TEXTS[finding.base]), encoding="utf-8")
    programs_dir.mkdir()
    trace(path, TASK, MESH, JUDGE_BATCH_ROWS, programs_dir)
    assert any(programs_dir.iterdir())


@pytest.mark.slow
def test_all_ideas_keep_the_contract(library: dict[str, Finding]) -> None:
    """Traces all in this process, without writing the programs down, which takes as long again."""
    for name, finding in library.items():
        module = types.ModuleType(name)
        exec(compile(changed_base(finding, BASE_TEXTS[finding.base]), name, "exec"), module.__dict__)
        _check_contract(module.build(TASK, MESH), name)


@pytest.mark.slow
def test_ideas_that_fit_the_training_file_keep_the_contract_with_it(library: dict[str, Finding]) -> None:
    source = TRAIN_LIB.read_text(encoding="utf-8")
    for name, finding in library.items():
        with contextlib.suppress(FindingError):
            text = apply_finding(finding, source, None, lambda base, ours, theirs: None)
            module = types.ModuleType(name)
            exec(compile(text, name, "exec"), module.__dict__)
            _check_contract(module.build(TASK, MESH), name)


def _check_contract(experiment: Experiment, name: str) -> None:
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    assert experiment.vocab_size in TASK.vocab_sizes, name
    assert jax.tree.structure(experiment.state_sharding) == jax.tree.structure(state), name
    for phase in experiment.phases:
        assert TASK.sequence_length % (phase.batch_shape[1] - 1) == 0, name
        tokens_BxT = jax.ShapeDtypeStruct(phase.batch_shape, jnp.int32)
        after, metrics = jax.eval_shape(phase.step, state, tokens_BxT, jax.ShapeDtypeStruct((), jnp.float32))
        assert _arrays(after) == _arrays(state), name
        assert metrics["loss"].shape == (), name
    tokens_BxT = jax.ShapeDtypeStruct((*JUDGE_BATCH_ROWS, TASK.sequence_length), jnp.int32)
    logits_BxTxV = jax.eval_shape(experiment.logits, state, tokens_BxT)
    assert logits_BxTxV.shape == (*tokens_BxT.shape, experiment.vocab_size), name


def _arrays(state: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
