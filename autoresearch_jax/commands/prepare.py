"""Make a dataset: corpus, splits, tokenizers, packed rows. Called again, it only adds what is missing."""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from autoresearch_jax.commands.console import PreparationProgress
from autoresearch_jax.commands.dataset_options import DatasetOptions
from autoresearch_jax.commands.options import format_option, option
from autoresearch_jax.commands.paths import require_text
from autoresearch_jax.errors import UsageError
from autoresearch_jax.tasks.lm.data.corpus import open_corpus
from autoresearch_jax.tasks.lm.data.dataset import SPLITS, Dataset, rows_file
from autoresearch_jax.tasks.lm.data.prepare import Part, list_parts, prepare_dataset, remove


@dataclass(frozen=True)
class Options:
    """What `autoresearch prepare` was asked for."""

    dataset: DatasetOptions
    list_parts: bool = option(False, "say what lies in --data_dir and make nothing", flag="list")
    remove: tuple[str, ...] | None = option(
        None,
        "make nothing; remove a dataset NAME, or from it the rows NAME/VxT of vocabulary V at sequence length T, as "
        "--list names them; several by commas",
    )
    format: str = format_option()


def run(options: Options, arguments: list[str]) -> int:
    """Prepares the dataset and prints what it holds; or lists or removes what is there."""
    if options.remove == ():
        raise UsageError("--remove is empty: name a dataset, as --list does")
    data_dir = options.dataset.datasets
    for what in options.remove or ():
        size = remove(data_dir, what, lambda: print("another call is at work on it: waiting", file=sys.stderr))
        print(f"removed {what}: {_megabytes(size)} MB", file=sys.stderr)
    if options.remove or options.list_parts:
        _print_parts(data_dir, options.format)
        return 0
    require_text(options.dataset.folder)
    start = time.monotonic()
    with PreparationProgress() as reporter:
        dataset = prepare_dataset(
            options.dataset.folder,
            open_corpus(options.dataset.corpus, options.dataset.downloads),
            sequence_length=options.dataset.sequence_length,
            vocab_sizes=options.dataset.vocab_sizes,
            reporter=reporter,
        )
    summary = _summary(dataset, made=reporter.made, seconds=time.monotonic() - start)
    if options.format == "json":
        print(json.dumps(summary, indent=1))
    else:
        for key, value in summary.items():
            print(f"{key}: {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


def _print_parts(data_dir: Path, format_: str) -> None:
    """What lies in the folder of all datasets, a line each."""
    parts = list_parts(data_dir)
    if format_ == "json":
        print(json.dumps([asdict(part) for part in parts], indent=1))
        return
    width = max((len(_full_name(part)) for part in parts), default=0)
    for part in parts:
        rows = "" if part.train_rows is None else f"  {part.train_rows} train rows"
        print(f"{_full_name(part):{width}}  {_megabytes(part.bytes):>10} MB{rows}")
    print(f"data_dir: {data_dir}")
    print(f"total_megabytes: {_megabytes(sum(part.bytes for part in parts))}")


def _full_name(part: Part) -> str:
    return f"{part.dataset}/{part.name}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _summary(dataset: Dataset, *, made: bool, seconds: float) -> dict[str, object]:
    """The figures to print, by name."""
    manifest = dataset.manifest
    documents = {split: manifest.splits[split].documents for split in SPLITS}
    size = sum(count.bytes for count in manifest.splits.values())
    summary: dict[str, object] = {
        "dataset": str(dataset.folder),
        "corpus": manifest.corpus,
        "fingerprint": dataset.fingerprint,
        "documents": sum(documents.values()),
        **{f"{split}_documents": count for split, count in documents.items()},
        **{f"skipped_{reason}": count for reason, count in manifest.skipped.items()},
        "megabytes": round(size / 1e6, 3),
        "sequence_length": dataset.sequence_length,
        "vocab_sizes": list(dataset.vocab_sizes),
    }
    for split in SPLITS:
        names = [rows_file(size, dataset.sequence_length, split) for size in dataset.vocab_sizes]
        summary[f"{split}_rows"] = [manifest.rows[name] for name in names]
    return {**summary, "made": "yes" if made else "no, it was there", "prepare_seconds": round(seconds, 2)}
