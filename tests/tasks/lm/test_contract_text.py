"""What agents are told of the contract, against the code that it is read from."""

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import jax

from autoresearch_jax import contract
from autoresearch_jax.assets.kinds import TRAINING_FILE
from autoresearch_jax.commands.proposer_options import OWN_TOKENS
from autoresearch_jax.proposers.briefing import count_tokens
from autoresearch_jax.proposers.command import instructions
from autoresearch_jax.tasks.lm.config import Caps, TimeLimits
from autoresearch_jax.tasks.lm.contract_text import KERNELS, contract_text, kernel_lines
from autoresearch_jax.types import Budget

TRAIN_LIB = Path(__file__).parents[3] / "train_lib.py"


SECONDS = Budget(seconds=50.0)


def told(budget: Budget = SECONDS, **caps_and_limits: Any) -> str:
    values = {"caps": Caps(), "limits": TimeLimits(), **caps_and_limits}
    return contract_text("train_lib.py", budget=budget, **values)


def test_every_field_of_the_contract_is_told_and_nothing_of_its_imports():
    text = told()
    for declared in (contract.TaskSpec, contract.Phase, contract.Experiment):
        assert f"class {declared.__name__}:" in text
        for one in dataclasses.fields(declared):
            assert f"    {one.name}: " in text
    assert "later_phases" in text
    assert "from collections" not in text
    assert f"jax {jax.__version__}" in text


def test_what_kernels_offer_is_what_the_shipped_file_uses_with_their_signatures():
    used = {
        (node.module.rpartition(".")[2], name.name)
        for node in ast.parse(TRAIN_LIB.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("autoresearch_jax.kernels.")
        for name in node.names
    }
    offered = {(module, name) for module, names in KERNELS.items() for name in names}
    assert used <= offered
    lines = list(kernel_lines())
    assert len(lines) == len(offered)
    for module, name in offered:
        function = getattr(importlib.import_module(f"autoresearch_jax.kernels.{module}"), name)
        (line,) = [line for line in lines if f"{module}.{name}(" in line]
        for parameter in inspect.signature(function).parameters:
            assert f"{parameter}: " in line
        assert line.endswith((function.__doc__ or "").splitlines()[0])


def test_the_limits_are_those_of_the_task():
    caps, limits = Caps(source_bytes=1234, min_steps=7), TimeLimits(trace=17.0, free_compile=41.0)
    text = told(caps=caps, limits=limits)
    for words in ("1,234 bytes of source", "at least 7 steps in the budget of 50 s", "17 s", "free for 41 s", "1 s;"):
        assert words in text
    assert "steps in the budget" not in told(Budget(steps=50))


def test_our_own_words_fit_into_what_is_kept_free_for_them():
    assert count_tokens(told() + instructions(TRAINING_FILE, "train_lib.py", [])) < OWN_TOKENS * 0.9
