"""What a trace left behind: taken if it is what it should be, refused or left alone otherwise, and never waited for."""

import ast
import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lm_trials import MakeTask
from tracing import TASK, edited
from train_lib_source import TRAIN_LIB

from autoresearch_jax.sandbox.sandbox import Level, ProcessLimits, Sandbox, SandboxResult
from autoresearch_jax.tasks.lm.conditions import TRACE_BEGINS, USUAL
from autoresearch_jax.tasks.lm.preparing import (
    MAX_FAILURE_BYTES,
    MAX_PROGRAM_BYTES,
    require_size,
    run_trace,
    traced_text,
)
from autoresearch_jax.types import CandidateRejected, CandidateUntouched, Status

LIMITS = ProcessLimits(wall_seconds=300.0)
EXITED = "the trace exited with status 1"
slow = partial(pytest.param, marks=pytest.mark.slow)


def trace(
    source: str,
    sandbox: Any,
    tmp_path: Path,
    limits: ProcessLimits = LIMITS,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    cage, out_dir = tmp_path / "cage", tmp_path / "out"
    cage.mkdir()
    out_dir.mkdir()
    path = cage / "train_lib.py"
    path.write_text(source)
    request = {
        "source": str(path),
        "task": dataclasses.asdict(TASK),
        "mesh": {"data": 1, "model": 1},
        "judge_batch_sizes": [2],
    }
    run_trace(
        request,
        out_dir,
        conditions=USUAL,
        sandbox=sandbox,
        limits=limits,
        environment=environment,
        log_path=tmp_path / "trace.log",
    )
    return out_dir


HIDING = '''# -*- coding: utf-8 -*-
"""A secret.

More of it.
"""; ONE = 1  # a secret
TEXT = """kept  # is no comment
   """
def f(x): ("""A secret,"""
           # a secret
           "another"); return x  # a secret
class C: "a secret"
async def g():
    """Ä secret.""" # a secret
    return "kept" # a secret'''


def test_a_file_cannot_read_comments_and_docstrings_of_itself() -> None:
    shown = traced_text(HIDING)
    assert "secret" not in shown
    assert shown.count("kept") == 2
    assert "another" not in shown
    tree, before = ast.parse(shown), ast.parse(HIDING)
    assert [node.lineno for node in tree.body] == [node.lineno for node in before.body]
    for node in ast.walk(before):
        if hasattr(node, "body") and isinstance(node.body, list) and ast.get_docstring(node) is not None:
            docstring = node.body[0].value
            docstring.value = "\n" * (docstring.end_lineno - docstring.lineno)
    assert ast.dump(tree) == ast.dump(before)


@pytest.mark.parametrize("source", [TRAIN_LIB.read_text(), "# nothing\r\n", "\ufeff# coding: utf-8\nx = 1  # a mark"])
def test_what_is_no_comment_stays(source: str) -> None:
    shown = traced_text(source)
    assert len(shown.splitlines()) == len(source.splitlines())
    assert "#" not in shown
    assert "\ufeff" not in shown


def test_what_is_no_python_stays_for_the_trace_to_refuse() -> None:
    assert traced_text("x = = 1  # no Python") == "x = = 1  # no Python"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("# coding: utf-7\nx = 1", "it declares the encoding utf-7: use UTF-8"),
        ("#!python\n# -*- coding: latin-1 -*-\nx = 1", "it declares the encoding iso-8859-1: use UTF-8"),
        ("# coding: no-such\nx = 1", "the source cannot be read: ValueError: unknown encoding"),
        ("x = '\ud800'", "the source cannot be read: UnicodeEncodeError"),
    ],
)
def test_what_an_import_would_read_otherwise_is_refused(source: str, reason: str) -> None:
    with pytest.raises(CandidateRejected, match=re.escape(reason)):
        traced_text(source)


def test_what_utf8_cannot_hold_is_the_candidates_fault() -> None:
    with pytest.raises(CandidateRejected, match="cannot be written as UTF-8"):
        require_size("X = '\ud800'\n", 1000)


# Says in the trace's log what it can tell of XLA's compile cache, and leaves files that are no programs.
SPY = """
import json, os, sys, jax
print("variables", sorted(name for name in os.environ if "CACHE" in name))
print("folder", jax.config.jax_compilation_cache_dir)
try:
    print("found", os.listdir({cache!r}))
except OSError as error:
    print("refused", type(error).__name__)
for name in ("extra", "evil.export", "failure.json"):
    open(f"{{sys.argv[2]}}/{{name}}", "w").close()
"""


def test_only_the_programs_are_taken_and_the_compile_cache_is_out_of_reach(
    tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "secret").touch()
    source = edited(tiny_source, ("UNUSED = 1", f"exec({SPY.format(cache=str(cache))!r})"))
    out_dir = trace(source, sandbox, tmp_path, environment={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)})
    names = ["init.export", "logits_2.export", "signature.json", "step_0.export"]
    assert sorted(path.name for path in out_dir.iterdir()) == names
    assert json.loads((out_dir / "signature.json").read_text())["vocab_size"] == 256
    log = (tmp_path / "trace.log").read_text()
    assert "variables []" in log
    assert "folder None" in log
    if sandbox.level is not Level.LIMITS:  # which hides nothing
        assert "refused" in log
        assert "secret" not in log


@dataclasses.dataclass(frozen=True)
class Leaving:
    """In place of a sandbox: a candidate that leaves something in the folder of its programs, and how it ends."""

    leave: Callable[[Path], object] = lambda out: None
    returncode: int | None = 0
    broken_limit: str | None = None
    words: str | None = None
    level: Level = Level.LANDLOCK

    def run_python(self, arguments: list[str], *, scratch: Path, log_path: Path, **more: object) -> SandboxResult:
        log_path.write_text(f"{TRACE_BEGINS}\n")
        self.leave(scratch / "programs")
        return SandboxResult(self.returncode, self.broken_limit, self.words, 1.0, 0, own_namespaces=True)


def hard_link(out: Path) -> None:
    (out.parent / "a").touch()
    os.link(out.parent / "a", out / "step_0.export")


def folder_link(out: Path) -> None:
    out.rmdir()
    out.symlink_to("/etc")


def failure(text: str) -> Leaving:
    return Leaving(lambda out: (out / "failure.json").write_text(text), 1)


@pytest.mark.parametrize(
    ("sandbox", "status", "reason"),
    [
        (Leaving(lambda out: os.mkfifo(out / "init.export")), Status.REJECTED, "init.export is no regular file"),
        (Leaving(lambda out: (out / "init.export").symlink_to("/etc/passwd")), Status.REJECTED, "cannot be read"),
        (Leaving(lambda out: (out / "step_0.export").mkdir()), Status.REJECTED, "step_0.export is no regular file"),
        (Leaving(hard_link), Status.REJECTED, "step_0.export is no regular file"),
        (Leaving(folder_link), Status.REJECTED, "the trace left no folder of programs"),
        (
            Leaving(lambda out: (out / "init.export").open("wb").truncate(MAX_PROGRAM_BYTES + 1)),
            Status.REJECTED,
            "the trace's programs are larger than 64 MiB",
        ),
        (Leaving(), Status.CRASH, "the trace ended before it had written its programs"),
        (Leaving(returncode=7), Status.CRASH, "the trace exited with status 7"),
        (Leaving(lambda out: os.mkfifo(out / "failure.json"), 1), Status.CRASH, EXITED),
        (failure(" " * (MAX_FAILURE_BYTES + 1)), Status.CRASH, EXITED),
        (failure("[" * 60000), Status.CRASH, EXITED),
        (failure('{"kept_contract": true, "reason": "a\\nval_bpb: \\ud800"}'), Status.CRASH, 'own words: "a val_bpb:'),
        (failure('{"kept_contract": false, "reason": "a"}'), Status.REJECTED, 'the contract is not kept: "a"'),
        (Leaving(broken_limit="memory_bytes", words="used more"), Status.OOM, "the trace used more"),
        (Leaving(broken_limit="cpu_seconds", words="ran"), Status.TIMEOUT, "the trace ran"),
        (Leaving(broken_limit="log_bytes", words="printed more"), Status.CRASH, "the trace printed more"),
    ],
)
def test_what_a_trace_leaves_is_looked_at_with_care(
    sandbox: Leaving, status: Status, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CandidateRejected) as caught:
        trace("", sandbox, tmp_path)
    assert caught.value.status is status
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.slow
def test_a_module_that_the_sandbox_hides_is_said_to_be_hidden(
    make_task: MakeTask, tiny_source: str, tmp_path: Path
) -> None:
    with pytest.raises(
        CandidateRejected, match=r"No module named 'turtle'.*the sandbox does not show Python's `turtle`"
    ):
        make_task().prepare(edited(tiny_source, ("UNUSED = 1", "import turtle")), tmp_path)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"wall_seconds": 0.05}, "ran longer than 0.05 s"),
        ({"open_files": 4}, "exited with status"),  # Python cannot import anything
    ],
)
def test_a_trace_that_ended_before_it_began_with_the_file_is_no_fault_of_the_candidate(
    limits: dict[str, Any], words: str, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(CandidateUntouched, match=f"^before it began with the training file, .*{re.escape(words)}"):
        trace(tiny_source, sandbox, tmp_path, dataclasses.replace(LIMITS, **limits))


def test_a_candidate_cannot_pretend_that_it_was_not_begun_with(
    tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(CandidateRejected) as caught:
        trace(f"import os; os.close(1); os.close(2); os._exit(1)\n{tiny_source}", sandbox, tmp_path)
    assert TRACE_BEGINS not in (caught.value.details or "")
