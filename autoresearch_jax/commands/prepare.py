"""Make a dataset: corpus, splits, tokenizers, packed rows. Called again, it only adds what is missing."""

import json
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from absl import flags

from autoresearch_jax.commands.dataset_flags import DatasetOptions, dataset_options, define_dataset_flags
from autoresearch_jax.lm.corpus import open_corpus
from autoresearch_jax.lm.dataset import SPLITS, Dataset
from autoresearch_jax.lm.manifest import rows_file
from autoresearch_jax.lm.prepare import prepare_dataset

if TYPE_CHECKING:
    from rich.progress import Progress

_REFRESH_SECONDS = 0.1


@dataclass(frozen=True)
class Options:
    """What `autoresearch prepare` was asked for."""

    dataset: DatasetOptions
    format: str


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_dataset_flags(flag_values)
    flags.DEFINE_enum("format", "text", ["text", "json"], "how the result is printed", flag_values=flag_values)


def run(flag_values: flags.FlagValues, positional: list[str]) -> int:
    """Prepares the dataset and prints what it holds."""
    options = Options(dataset_options(flag_values), flag_values.format)
    start = time.monotonic()
    with ConsoleReporter() as reporter:
        dataset = prepare_dataset(
            options.dataset.folder,
            open_corpus(options.dataset.corpus),
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


class ConsoleReporter:
    """Shows progress on stderr: a bar on a terminal, else one line when a stage begins."""

    def __init__(self) -> None:
        self.made = False  # whether there was anything to do
        self._bar: Progress | None = None
        self._pending = 0
        self._shown = 0.0

    def __enter__(self) -> "ConsoleReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._flush()
            self._bar.stop()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def stage(self, what: str, documents: int | None) -> None:
        self.made = True
        if not sys.stderr.isatty():
            self.note(what if documents is None else f"{what}, {documents} documents")
            return
        if self._bar is None:
            self._bar = _progress_bar()
            self._bar.start()
        self._flush()
        if self._bar.task_ids:
            self._bar.stop_task(self._bar.task_ids[-1])
        self._bar.add_task(what, total=documents)

    def advance(self) -> None:
        self._pending += 1
        if self._bar is not None and time.monotonic() - self._shown > _REFRESH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._bar is not None and self._bar.task_ids:
            self._bar.advance(self._bar.task_ids[-1], self._pending)
        self._pending, self._shown = 0, time.monotonic()


def _progress_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


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
