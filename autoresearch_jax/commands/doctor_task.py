"""What `autoresearch doctor` looks at of a task: its dataset, or its task.toml."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.tasks.lm.data.dataset import SPLITS, covered_files, prepare_command, rows_file

HASHED_BYTES = 200_000_000  # up to which all files of a dataset are hashed, which takes a second or less


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `is_ok` says whether a run may rely on it, the remedy what to do."""

    name: str
    outcome: str
    is_ok: bool = True
    remedy: str | None = None


def fault(name: str, outcome: str, remedy: str) -> Check:
    """A check that failed."""
    return Check(name, outcome, False, remedy)


def check_task(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """The file of --task=command, and what it names; nothing of it is run, which `autoresearch trial` does."""
    task = options.task.command
    yield Check("task_file", str(task.path))
    yield Check("asset", f"{task.asset.file}, a {task.asset_kind.noun}")
    yield Check("metric", f"{task.metric.name}, to {task.metric.direction}; its noise is that of {task.metric.noise}")
    for name, command in (("build", task.build), ("run", task.run), ("serve", task.serve), ("evaluate", task.evaluate)):
        if command is not None:
            yield Check(name, shlex.join(command.command))


def check_dataset(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Check]:
    """The dataset, its fingerprint, what it holds, and its files."""
    dataset = options.task.dataset.open()
    manifest, length = dataset.manifest, dataset.sequence_length
    yield Check("dataset", str(dataset.folder))
    yield Check("fingerprint", dataset.fingerprint)
    for size in dataset.vocab_sizes:
        rows = (f"{split} {manifest.rows[rows_file(size, length, split)]}" for split in SPLITS)
        yield Check(f"dataset_rows_{size}", f"{', '.join(rows)}, of {length} tokens")
    names = covered_files(dataset.vocab_sizes, length)
    there = f"{len(names)} files, {sum(manifest.files[name].size for name in names) / 1e6:.1f} MB"
    if sum(entry.size for entry in manifest.files.values()) > HASHED_BYTES:
        yield Check("dataset_files", f"{there}: sizes as written; the hashes of so much were not computed")
    elif wrong := sorted(set(dataset.verify()) & set(names)):
        command = prepare_command(dataset.folder, manifest.corpus, length, dataset.vocab_sizes)
        remedy = f"rm {shlex.quote(str(dataset.folder / wrong[0]))} && {command}"
        yield fault("dataset_files", f"{', '.join(wrong)}: not as written", remedy)
    else:
        yield Check("dataset_files", f"{there}: sizes and hashes as written")
