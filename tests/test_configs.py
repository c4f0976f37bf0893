"""The flag files in configs/: every command takes them, and their constants are a training file that builds."""

import math
from pathlib import Path
from typing import Any

import jax
import pytest
from absl import flags
from train_lib_source import TINY, TRAIN_LIB, load_tiny, make_mesh

from autoresearch_jax.assets.python_constants import read_constants
from autoresearch_jax.cli import command_module
from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.options import define_options, parse_settings, read_options
from autoresearch_jax.commands.task_options import parse_mesh
from autoresearch_jax.contract import TaskSpec
from autoresearch_jax.tasks.lm.data.corpus import open_corpus

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.flags"))
FAST = ("demo",)
ACCELERATORS = [path for path in CONFIGS if path.stem.startswith(("h100", "tpu"))]
NUM_PARAMS = 50_332_176  # of the original at depth 8, with as many scalars and gates


def parsed(config: Path, command: str) -> flags.FlagValues:
    flag_values = flags.FlagValues()
    define_options(flag_values, command_module(command).Options)
    assert flag_values([command, f"--flagfile={config}"]) == [command]
    return flag_values


@pytest.mark.parametrize("command", ["prepare", "trial", "run", "doctor"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_commands_take_it(config: Path, command: str) -> None:
    found = parsed(config, command)
    options = read_options(found, DatasetOptions)
    assert open_corpus(options.corpus).spec == options.corpus
    assert options.folder.parent.name == "data"
    if command in ("trial", "run"):
        assert found.budget_seconds


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_says_what_to_expect_and_how_to_call_it(config: Path) -> None:
    text = config.read_text()
    assert "Not measured" in text or "Expected" in text or "demo.sh" in text
    if config.stem != "demo":
        for command in ("prepare", "trial"):
            assert f"#   autoresearch {command} --flagfile=configs/{config.name}\n" in text


@pytest.mark.parametrize(
    "config",
    [pytest.param(path, marks=[] if path.stem in FAST else [pytest.mark.slow], id=path.stem) for path in CONFIGS],
)
def test_its_constants_build(config: Path) -> None:
    """What --set says is a training file that can be traced for what the dataset offers."""
    found = parsed(config, "trial")
    constants = parse_settings(found.set)
    assert constants == parse_settings(parsed(config, "run").set)
    sizes = read_options(found, DatasetOptions).vocab_sizes
    as_it_comes = read_constants(TRAIN_LIB.read_text())
    values = {name: as_it_comes[name] for name in TINY} | constants
    assert values["VOCAB_SIZE"] in sizes
    task = TaskSpec(vocab_sizes=sizes, sequence_length=found.sequence_length, platform="cpu")
    experiment = load_tiny(**values).build(task, make_mesh())
    state: Any = jax.eval_shape(experiment.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((values["BATCH_SIZE"], found.sequence_length + 1), "int32")
    progress = jax.ShapeDtypeStruct((), "float32")
    assert jax.eval_shape(experiment.step, state, tokens, progress)[1]


@pytest.mark.parametrize("config", ACCELERATORS, ids=lambda path: path.stem)
def test_an_accelerator_s_setting_is_the_original_s(config: Path) -> None:
    assert "Not measured" in config.read_text()
    found = parsed(config, "trial")
    mesh_axes = parse_mesh(found.mesh) or {"data": 1, "model": 1}
    constants = parse_settings(found.set)
    assert found.budget_seconds == 300
    assert read_options(found, DatasetOptions).corpus == "climbmix:10"
    assert found.judge_tokens == 40 * 524_288
    assert constants["BATCH_SIZE"] * found.sequence_length == 2**19
    micro_batches = constants["GRADIENT_ACCUMULATION"] * mesh_axes["data"]
    assert constants["BATCH_SIZE"] % micro_batches == 0
    task = TaskSpec(vocab_sizes=(8192,), sequence_length=found.sequence_length, platform=found.platform)
    as_it_comes = read_constants(TRAIN_LIB.read_text())
    experiment = load_tiny(**{name: as_it_comes[name] for name in TINY} | constants).build(task, make_mesh())
    shapes: Any = jax.eval_shape(experiment.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == NUM_PARAMS
