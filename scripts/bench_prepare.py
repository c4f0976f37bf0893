"""Measures how fast text becomes rows, and rows become batches; called by bench_prepare.sh.

The text is Python's own library again and again, its lines drawn anew each time, so that no document is like another;
a quarter of the files each is .jsonl, .jsonl.gz, .jsonl.zst and .parquet. It is prepared by `prepare_dataset`, in a
process of its own, with one vocabulary. Then a loader gives batches of the original's shape, 256 rows of 2048 tokens,
from rows of a gigabyte: as fast as it can, and to a loop that takes one as often as 2 million tokens a second make.
Last a trial in the default configuration.

  mb_per_second_per_core      text encoded, packed and written, by the time of these stages and the number of cores
  mb_per_second               text by the time of the whole preparation, learning the vocabulary included
  peak_memory_mb              of that process
  worst_learning_memory_mb    of a process that learns a vocabulary from as much text as our rules read, clauses of 12
                              Chinese characters drawn at random, since each different word takes memory
  loader_tokens_per_second    as fast as it can
  loader_wait_share           of the loop's time at 2 million tokens a second that it waits for a batch
  data_wait_share             of a trial's budget in the default CPU configuration that it waits for data
"""

import argparse
import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoresearch_jax.sandbox.accounting import host_processors
from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus
from autoresearch_jax.tasks.lm.data.loader import TokenLoader
from autoresearch_jax.tasks.lm.data.prepare import prepare_dataset
from autoresearch_jax.tasks.lm.data.text_files import Skipped
from autoresearch_jax.tasks.lm.data.tokenizer import STANDARD, train_tokenizer

BATCH_ROWS, CONTEXT = 256, 2048  # the original's
WANTED_TOKENS_PER_SECOND = 2e6  # what an H100 eats at depth 8
FILE_BYTES = 25e6
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


class Stopwatch(Reporter):
    """Seconds of each stage of a preparation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._what = "start"
        self._since = time.monotonic()

    def stage(self, what: str, total: int | None) -> None:
        now = time.monotonic()
        self.seconds[self._what] = now - self._since
        self._what, self._since = what, now


def documents(megabytes: float) -> Iterator[str]:
    """Texts of so many megabytes together, each other than all before it."""
    texts = [document.text for document in open_corpus("stdlib").fetch(Reporter()).documents(Skipped())]
    draw = random.Random(0)
    left = megabytes * 1e6
    while left > 0:
        text = draw.choice(texts)
        lines = text.splitlines(keepends=True)
        start = draw.randrange(len(lines))
        text = f"# {draw.random()}\n" + "".join(lines[start:] + lines[:start])
        yield text
        left -= len(text.encode())


def write_files(folder: Path, megabytes: float) -> None:
    """The texts in files of about 25 MB, of four formats in turn."""
    batch: list[str] = []
    size = number = 0
    for text in documents(megabytes):
        batch.append(text)
        size += len(text)
        if size > FILE_BYTES:
            write_file(folder / f"{number:05d}{SUFFIXES[number % 4]}", batch)
            number, batch, size = number + 1, [], 0
    write_file(folder / f"{number:05d}{SUFFIXES[number % 4]}", batch)


def write_file(path: Path, texts: list[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"text": texts}), path, row_group_size=1024)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines, 6))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    else:
        path.write_bytes(lines)


def measure_preparation(source: Path, data_dir: Path, vocab_size: int) -> dict[str, Any]:
    """Prepares a dataset in this process; megabytes, seconds by stage, and the process's largest memory."""
    corpus = open_corpus(f"files:{source}/*")
    stopwatch = Stopwatch()
    start = time.monotonic()
    dataset = prepare_dataset(
        data_dir / "bench", corpus, sequence_length=CONTEXT, vocab_sizes=(vocab_size,), reporter=stopwatch
    )
    seconds = time.monotonic() - start
    stopwatch.stage("end", None)
    return {
        "megabytes": sum(count.bytes for count in dataset.manifest.splits.values()) / 1e6,
        "seconds": seconds,
        "stages": stopwatch.seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def measure_learning(vocab_size: int, size: int) -> float:
    """Largest memory of this process, in MB, after a vocabulary was learnt from so many bytes of different words."""
    rng = np.random.default_rng(0)

    def texts() -> Iterator[str]:
        while True:
            letters = 0x4E00 + np.minimum(rng.zipf(1.2, (200, 12)), 3000) % 3000
            yield "\uff0c".join("".join(map(chr, clause)) for clause in letters)

    train_tokenizer(texts(), vocab_size, replace(STANDARD, training_bytes=size))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_loader(seconds: float) -> dict[str, float]:
    """Tokens a second of a loader by itself, and how long a loop of steps waits for it that only sleep."""
    rng = np.random.default_rng(0)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, rng.integers(0, 8192, (250_000, CONTEXT + 1), np.uint16))  # 1 GB
        file.flush()
        rows = np.load(file.name, mmap_mode="r")
        shape = (BATCH_ROWS, CONTEXT + 1)
        token_ids_V = rng.permutation(8192)
        tokens = BATCH_ROWS * CONTEXT
        rates = []
        for repetition in range(3):
            with TokenLoader(rows, shape, seed=repetition, token_ids_V=token_ids_V) as loader:
                for _ in range(20):  # what was fetched ahead, and the first touch of the pages
                    next(loader)
                start, batches = time.monotonic(), 0
                while time.monotonic() - start < seconds:
                    next(loader)
                    batches += 1
                rates.append(batches * tokens / (time.monotonic() - start))
        step_seconds = tokens / WANTED_TOKENS_PER_SECOND
        waited = 0.0
        with TokenLoader(rows, shape, seed=0, token_ids_V=token_ids_V) as loader:
            start = time.monotonic()
            for step in range(1, 1 + int(4 * seconds / step_seconds)):
                asked = time.monotonic()
                next(loader)
                waited += time.monotonic() - asked
                time.sleep(max(0.0, start + step * step_seconds - time.monotonic()))
            total = time.monotonic() - start
    return {"loader_tokens_per_second": statistics.median(rates), "loader_wait_share": waited / total}


def measure_trial(run_dir: Path, budget_seconds: int) -> float:
    """Share of the budget of a default trial that went by waiting for data."""
    flags = ("--flagfile=configs/cpu.flags", f"--budget_seconds={budget_seconds}", "--format=json")
    subprocess.run(["autoresearch", "prepare", flags[0]], stdout=subprocess.DEVNULL, check=True)
    command = ["autoresearch", "trial", *flags, f"--run_dir={run_dir}", "--min_steps=0"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    summary = json.loads(done.stdout)
    return float(summary["data_wait_seconds"]) / float(summary["training_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=400.0, help="of text (default: 400)")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--quick", action="store_true", help="to see that it works; no figures to quote")
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)  # in the process that is measured
    parser.add_argument("--data_dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--learn", type=int, help=argparse.SUPPRESS)  # bytes; in a process of its own, too
    args = parser.parse_args()
    if args.learn is not None:
        print(measure_learning(args.vocab_size, args.learn))
        return
    if args.source is not None:
        print(json.dumps(measure_preparation(args.source, args.data_dir, args.vocab_size)))
        return
    megabytes = 12.0 if args.quick else args.megabytes
    with tempfile.TemporaryDirectory(prefix="bench_prepare_") as name:
        scratch = Path(name)
        (scratch / "source").mkdir()
        write_files(scratch / "source", megabytes)
        words = [f"--source={scratch / 'source'}", f"--data_dir={scratch}", f"--vocab_size={args.vocab_size}"]
        done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
        prepared = json.loads(done.stdout)
        size = (STANDARD.training_bytes or 0) // (8 if args.quick else 1)
        words = [sys.executable, __file__, f"--learn={size}", f"--vocab_size={args.vocab_size}"]
        learning = float(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
        loader = measure_loader(0.5 if args.quick else 5.0)
        data_wait_share = measure_trial(scratch / "runs", 2 if args.quick else 60)
    packing = sum(seconds for stage, seconds in prepared["stages"].items() if ": packing" in stage)
    cores = len(os.sched_getaffinity(0))
    print(f"machine: {host_processors()}, Python {sys.version.split()[0]}")
    print(
        f"text: {prepared['megabytes']:.0f} MB in {len(SUFFIXES)} formats, vocabulary {args.vocab_size}, T = {CONTEXT}"
    )
    for stage, seconds in prepared["stages"].items():
        print(f"  {stage}: {seconds:.1f} s")
    print(f"mb_per_second: {prepared['megabytes'] / prepared['seconds']:.1f}")
    print(f"peak_memory_mb: {prepared['peak_memory_mb']:.0f}")
    print(f"worst_learning_memory_mb: {learning:.0f}")
    print(f"loader_wait_share: {loader['loader_wait_share']:.5f}")
    print(f"data_wait_share: {data_wait_share:.5f}")
    print(f"mb_per_second_per_core: {prepared['megabytes'] / packing / cores:.2f}")
    print(f"loader_tokens_per_second: {loader['loader_tokens_per_second']:.0f}")


if __name__ == "__main__":
    main()
