"""What a trace left behind: taken if it is what it should be, refused or left alone otherwise, and never waited for."""

import ast
import dataclasses
import json
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lm_trials import MakeTask
from tracing import TASK, edited
from train_lib_source import TRAIN_LIB

from autoresearch_jax.sandbox.sandbox import Level, ProcessLimits, Sandbox
from autoresearch_jax.tasks.lm.conditions import TRACE_BEGINS, USUAL
from autoresearch_jax.tasks.lm.preparing import MAX_PROGRAM_BYTES, require_size, run_trace, traced_text
from autoresearch_jax.types import CandidateRejected, CandidateUntouched, Status

LIMITS = ProcessLimits(wall_seconds=300.0, file_bytes=2 * MAX_PROGRAM_BYTES)
OUT = "import os, sys, json; out = sys.argv[2]; "
LEAVE = "; sys.stdout.flush(); os._exit(0)"
FAIL = "; sys.stdout.flush(); os._exit(1)"
EXITED = "the trace exited with status 1"
slow = partial(pytest.param, marks=pytest.mark.slow)


def trace(source: str, sandbox: Sandbox, tmp_path: Path, limits: ProcessLimits = LIMITS) -> Path:
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
    log_path = tmp_path / "trace.log"
    run_trace(
        request, out_dir, conditions=USUAL, sandbox=sandbox, limits=limits, environment=os.environ, log_path=log_path
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


def test_only_the_programs_are_taken(tiny_source: str, sandbox: Sandbox, tmp_path: Path) -> None:
    extra = OUT + "[open(f'{out}/{name}', 'w') for name in ('extra', 'evil.export', 'failure.json')]; "
    extra += "os.mkfifo(out + '/pipe'); os.symlink('/etc/passwd', out + '/passwd'); UNUSED = 1"
    out_dir = trace(edited(tiny_source, ("UNUSED = 1", extra)), sandbox, tmp_path)
    names = ["init.export", "logits_2.export", "signature.json", "step_0.export"]
    assert sorted(path.name for path in out_dir.iterdir()) == names
    assert json.loads((out_dir / "signature.json").read_text())["vocab_size"] == 256


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("os.mkfifo(out + '/signature.json')" + LEAVE, Status.REJECTED, "signature.json is no regular file"),
        slow("os.symlink('/etc/passwd', out + '/init.export')" + LEAVE, Status.REJECTED, "init.export cannot be read"),
        (
            f"open(out + '/init.export', 'w').truncate({MAX_PROGRAM_BYTES + 1})" + LEAVE,
            Status.REJECTED,
            "the trace's programs are larger than 64 MiB",
        ),
        ("hold = [b'x' * (1 << 24) for _ in range(64)]", Status.OOM, "the trace used more than 0.7 GiB of memory"),
        slow("os.mkdir(out + '/step_0.export')" + LEAVE, Status.REJECTED, "step_0.export is no regular file"),
        slow(
            "open('a', 'w'); os.link('a', out + '/step_0.export')" + LEAVE,
            Status.REJECTED,
            "step_0.export is no regular file",
        ),
        slow("os.rmdir(out); os.symlink('/etc', out)" + LEAVE, Status.REJECTED, "the trace left no folder of programs"),
        slow("os.mkfifo(out + '/failure.json')" + FAIL, Status.CRASH, EXITED),
        slow("open(out + '/failure.json', 'w').truncate(1 << 26)" + FAIL, Status.CRASH, EXITED),
        slow("open(out + '/failure.json', 'w').write('[' * 60000)" + FAIL, Status.CRASH, EXITED),
        slow("print('x' * (9 << 20))", Status.CRASH, "the trace printed more than 8 MiB"),
        slow(
            "import threading, time; hold = [threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
            " for _ in range(250)]; time.sleep(9)",
            Status.CRASH,
            "the trace started more than 200 threads",
        ),
    ],
)
def test_what_is_not_a_programs_file_is_refused_at_once(
    code: str, status: Status, reason: str, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    begin = time.monotonic()
    limits = dataclasses.replace(LIMITS, memory_bytes=717 << 20, threads=200)
    with pytest.raises(CandidateRejected) as caught:
        trace(edited(tiny_source, ("UNUSED = 1", OUT + code)), sandbox, tmp_path, limits)
    assert time.monotonic() - begin < LIMITS.wall_seconds
    assert caught.value.status is status
    assert reason in caught.value.reason


def test_a_file_that_the_sandbox_hides_is_said_to_be_hidden(
    make_task: MakeTask, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    if sandbox.level is Level.LIMITS:
        pytest.skip("nothing is hidden here")
    with pytest.raises(CandidateRejected) as caught:
        make_task().prepare(edited(tiny_source, ("UNUSED = 1", "open('/etc/passwd')")), tmp_path)
    assert re.search(
        r"(FileNotFound|Permission)Error: .*; in the sandbox it finds no file but its own$", str(caught.value)
    )
    assert caught.value.facts == {"sandbox": sandbox.level}


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
        ({"memory_bytes": 20 << 20}, "used more than 0.0 GiB of memory"),
        ({"open_files": 4}, "exited with status"),  # Python cannot import anything
    ],
)
def test_a_trace_that_ended_before_it_began_with_the_file_is_no_fault_of_the_candidate(
    limits: dict[str, Any], words: str, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(CandidateUntouched, match=f"^before it began with the training file, .*{re.escape(words)}"):
        trace(tiny_source, sandbox, tmp_path, dataclasses.replace(LIMITS, **limits))


@pytest.mark.parametrize(
    "code", [slow("os._exit(1)"), "os.close(1); os.close(2); os._exit(1)", slow("raise SystemExit(1)")]
)
def test_a_candidate_cannot_pretend_that_it_was_not_begun_with(
    code: str, tiny_source: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(CandidateRejected) as caught:
        trace(f"import os; {code}\n" + tiny_source, sandbox, tmp_path)
    assert TRACE_BEGINS not in (caught.value.details or "")
