"""Prints text from a snapshot, so that a person sees what the model learnt.

autoresearch sample --tag=NAME --prompt='def '
autoresearch sample --snapshot=runs/NAME/snapshots/0003-0004 --temperature=0
"""

from contextlib import closing
from pathlib import Path

from absl import flags

from autoresearch_jax.commands.run_flags import define_run_flags, run_folder
from autoresearch_jax.commands.trial import DEFAULT_TAG
from autoresearch_jax.errors import UsageError, UserError
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.search.ledger import Ledger


def define_flags(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_string("snapshot", None, "folder of a snapshot; default: --tag's champion", flag_values=flag_values)
    define_run_flags(flag_values, default_tag=DEFAULT_TAG)
    flags.DEFINE_string("prompt", "", "what the text begins with; empty begins a document", flag_values=flag_values)
    flags.DEFINE_integer("tokens", 200, "tokens to add", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_float("temperature", 0.8, "0 takes the likeliest token", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_integer("top_k", 50, "draw among so many tokens; 0: all", lower_bound=0, flag_values=flag_values)
    flags.DEFINE_integer("seed", 0, "seed of the draw", lower_bound=0, flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    snapshot = _snapshot(flag_values)
    from autoresearch_jax.lm.sample import SampleSettings, sample  # loads JAX

    settings = SampleSettings(
        prompt=flag_values.prompt,
        num_tokens=flag_values.tokens,
        temperature=flag_values.temperature,
        top_k=flag_values.top_k,
        seed=flag_values.seed,
    )
    print(sample(snapshot, settings))
    return 0


def _snapshot(flag_values: flags.FlagValues) -> Path:
    """The snapshot asked for: by path, or of a run its champion's, or of trials by hand the newest."""
    if flag_values.snapshot is not None:
        if not flag_values.snapshot:
            raise UsageError("--snapshot is empty: name the folder of a snapshot")
        return Path(flag_values.snapshot)
    folder = run_folder(flag_values)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        champion = summarize_run(ledger).champion
        trials = ledger.trials(None if champion is None else ledger.measured(champion).id)
    snapshots = [trial.snapshot for trial in trials if trial.snapshot is not None and trial.value is not None]
    if not snapshots:
        raise UserError(f"{folder.path}: no snapshot yet; run `autoresearch trial`, or name one with --snapshot")
    return folder.snapshot(snapshots[-1])
