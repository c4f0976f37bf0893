"""The flags that name a run, shared by every command that has to do with one."""

from pathlib import Path, PurePosixPath

from absl import flags

from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.errors import UsageError


def define_run_flags(flag_values: flags.FlagValues, *, default_tag: str | None = None) -> None:
    """Defines --tag and --run_dir."""
    flags.DEFINE_string("tag", default_tag, "name of the run and of its folder", flag_values=flag_values)
    flags.DEFINE_string("run_dir", "./runs", "folder of the runs", flag_values=flag_values)


def run_folder(flag_values: flags.FlagValues) -> RunFolder:
    """The folder that --tag and --run_dir name.

    Raises:
      UsageError: --tag is missing, or leads out of the folder of the runs.
    """
    tag = flag_values.tag
    if not tag:
        raise UsageError("--tag is missing: name the run, such as --tag=nov20")
    parts = PurePosixPath(tag).parts
    if tag.startswith("/") or ".." in parts or not parts:
        raise UsageError(f"--tag={tag}: a name, not a path that leads out of {flag_values.run_dir}")
    return RunFolder(Path(flag_values.run_dir) / tag)


def named_run(flag_values: flags.FlagValues, name: str) -> RunFolder:
    """A run that is named by its tag, in the folder of --run_dir, or by its own folder."""
    by_tag, by_path = RunFolder(Path(flag_values.run_dir) / name), RunFolder(Path(name))
    return by_path if by_path.ledger.is_file() and not by_tag.ledger.is_file() else by_tag
