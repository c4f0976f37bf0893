"""What a candidate sees of Python: all that a training file needs, and nothing of what the default corpus judges by."""

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from autoresearch_jax.sandbox import mounts
from autoresearch_jax.sandbox.escapes import LIMITS
from autoresearch_jax.sandbox.mounts import HIDDEN_MODULES
from autoresearch_jax.sandbox.sandbox import Level, Sandbox
from autoresearch_jax.tasks.lm.data.corpus import Reporter, open_corpus

RUN_BYTES, NUM_RUNS = 60, 6
USUAL = (
    *("argparse", "ast", "asyncio", "cProfile", "concurrent.futures", "csv", "ctypes", "dataclasses", "decimal", "dis"),
    *("doctest", "email.message", "encodings.idna", "html", "http.client", "inspect", "json", "logging.handlers"),
    *("multiprocessing.pool", "optparse", "pdb", "pickle", "platform", "pydoc", "random", "runpy", "socketserver"),
    *("sqlite3", "statistics", "symtable", "sysconfig", "tarfile", "tempfile", "timeit", "tokenize", "tomllib"),
    *("tracemalloc", "typing", "unittest.mock", "urllib.request", "uuid", "wsgiref.simple_server", "xml.dom.minidom"),
    *("xml.etree.ElementTree", "zipfile", "zoneinfo"),
)
LIBRARIES = ("jax", "jax.experimental.pallas", "flax.nnx", "flax.linen", "optax", "orbax.checkpoint", "grain", "scipy")

IMPORT = """
import importlib, json, sys
hidden, shown = json.loads(sys.argv[1])
for name in hidden:
    try:
        importlib.import_module(name)
        print("OPEN", name)
    except ModuleNotFoundError:
        pass
for name in shown:
    importlib.import_module(name)
print("done")
"""
SEARCH = """
import json, marshal, mmap, os, sys, zipfile
runs, roots = json.loads(sys.argv[1])
runs = [run.encode() for run in runs]
seen, texts = set(), 0

def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, frozenset)):
        for item in value:
            yield from strings(item)
    elif hasattr(value, "co_consts"):
        yield from strings(value.co_consts)

for top in ["/", *roots]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
        for path in {os.path.join(folder, name) for name in names} - seen:
            seen.add(path)
            try:
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    print(*(f"OPEN {path}\\n" for run in runs if data.find(run) >= 0))
            except (OSError, ValueError):
                pass
for archive in (zipfile.ZipFile(path) for path in sys.path if path.endswith(".zip") and os.path.exists(path)):
    for name in archive.namelist():
        for text in strings(marshal.loads(archive.read(name)[16:])):
            texts += 1
            print(*(f"OPEN {name}\\n" for run in runs if run in text.encode("utf-8", "surrogatepass")))
print("files", len(seen), "texts", texts)
"""


def run_of(text: str) -> str:
    lines = [line for line in text.splitlines() if len(line) >= RUN_BYTES]
    return lines[len(lines) // 2][-RUN_BYTES:]


def printed(sandbox: Sandbox, tmp_path: Path, code: str, *values: object) -> list[str]:
    if sandbox.level is Level.LIMITS:
        pytest.skip("nothing is hidden here")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    limits = replace(LIMITS, wall_seconds=300.0, cpu_seconds=300.0, memory_bytes=4 << 30, threads=600)
    words = ["-c", code, json.dumps(values)]
    log_path = tmp_path / "log"
    result = sandbox.run_python(words, scratch=scratch, environment=os.environ, log_path=log_path, limits=limits)
    assert result.returncode == 0, log_path.read_text()
    return log_path.read_text().split()


def test_hidden_modules_are_absent_and_usual_ones_are_there(sandbox: Sandbox, tmp_path: Path) -> None:
    assert printed(sandbox, tmp_path, IMPORT, sorted(HIDDEN_MODULES), USUAL) == ["done"]


@pytest.mark.slow
def test_libraries_need_no_hidden_module(sandbox: Sandbox, tmp_path: Path) -> None:
    assert printed(sandbox, tmp_path, IMPORT, [], LIBRARIES)[-1] == "done"


@pytest.mark.slow
def test_no_run_of_val_or_holdout_is_in_any_file(sandbox: Sandbox, tmp_path: Path) -> None:
    files = [file for file in open_corpus("stdlib").fetch(Reporter()).files if file.split != "train"]
    longest = sorted((file.path.read_text() for file in files), key=len)[-NUM_RUNS:]
    runs = [run_of(text) for text in longest]
    control = run_of(Path(mounts.__file__).read_text())
    words = printed(sandbox, tmp_path, SEARCH, [*runs, control], list(map(str, sandbox.mounts.readable)))
    assert [after for word, after in pairwise(words) if word == "OPEN"] == [mounts.__file__]
    assert int(words[words.index("files") + 1]) > 10_000
    assert int(words[words.index("texts") + 1]) > 10_000
