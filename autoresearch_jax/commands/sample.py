"""Prints text from a snapshot, so that a person sees what the model learnt.

autoresearch sample --tag=NAME --prompt='def '
autoresearch sample --snapshot=runs/NAME/snapshots/3 --temperature=0
"""

from dataclasses import dataclass
from pathlib import Path

from absl import flags

from autoresearch_jax.errors import UsageError, UserError


@dataclass(frozen=True)
class Options:
    """What `autoresearch sample` was asked to do; see the flags."""

    snapshot: Path
    prompt: str
    num_tokens: int
    temperature: float
    top_k: int
    seed: int


def define_flags(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_string("snapshot", None, "folder of a snapshot; default: --tag's newest", flag_values=flag_values)
    flags.DEFINE_string("tag", "trials", "run whose newest snapshot is used", flag_values=flag_values)
    flags.DEFINE_string("run_dir", "./runs", "folder of the runs", flag_values=flag_values)
    flags.DEFINE_string("prompt", "", "what the text begins with; empty begins a document", flag_values=flag_values)
    flags.DEFINE_integer("tokens", 200, "tokens to add", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_float("temperature", 0.8, "0 takes the likeliest token", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_integer("top_k", 50, "draw among so many tokens; 0: all", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_integer("seed", 0, "seed of the draw", lower_bound=0, flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    options = Options(
        snapshot=_snapshot(flag_values),
        prompt=flag_values.prompt,
        num_tokens=flag_values.tokens,
        temperature=flag_values.temperature,
        top_k=flag_values.top_k,
        seed=flag_values.seed,
    )
    from autoresearch_jax.lm.sample import SampleSettings, sample  # loads JAX

    settings = SampleSettings(options.prompt, options.num_tokens, options.temperature, options.top_k, options.seed)
    print(sample(options.snapshot, settings))
    return 0


def _snapshot(flag_values: flags.FlagValues) -> Path:
    if flag_values.snapshot is not None:
        if not flag_values.snapshot:
            raise UsageError("--snapshot is empty: name the folder of a snapshot")
        return Path(flag_values.snapshot)
    folder = Path(flag_values.run_dir) / flag_values.tag / "snapshots"
    manifests = sorted(folder.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise UserError(f"{folder}: no snapshots here; run `autoresearch trial` first, or name one with --snapshot")
    return manifests[-1].parent
