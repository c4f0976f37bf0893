"""The identity of a process: told from whatever else has its number, on this machine or another."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_jax.sandbox.linux import IS_LINUX
from autoresearch_jax.sandbox.machine import ProcessIdentity, this_process

NO_PROC = Path("/nowhere")
SLEEP = [shutil.which("sleep"), "600"]
IDENTITY = """
from autoresearch_jax.sandbox.machine import this_process
me = this_process()
print(repr(me), me.is_running(), flush=True)
input()
"""
# Everything is imported before the files may not be read any more.
ANOTHER_USER = """
import os, sys
from pathlib import Path
from autoresearch_jax.sandbox.machine import ProcessIdentity
os.setuid(65534)
print(ProcessIdentity("x", int(sys.argv[1])).is_running(Path("/nowhere")))
"""


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen, ProcessIdentity]]:
    """A process, and its identity as it told it."""
    command = [sys.executable, "-c", IDENTITY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told, _, is_running = process.stdout.readline().strip().rpartition(" ")
        assert is_running == "True"
        yield process, eval(told, {"ProcessIdentity": ProcessIdentity})
        process.kill()


def test_a_process_runs_until_it_is_killed(child):
    process, identity = child
    assert identity.pid == process.pid
    assert str(identity) == f"pid {process.pid} on {os.uname().nodename}"
    assert identity.shares_kernel(this_process())
    assert identity.namespace == this_process().namespace
    assert identity.is_running()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if IS_LINUX:
        assert not identity.is_running(), "it has ended, though its parent has not asked for its status"
    process.wait()
    assert not identity.is_running()


@pytest.mark.skipif(not IS_LINUX, reason="only Linux tells when a process began")
def test_another_process_with_the_same_number_is_another_one(child):
    _, identity = child
    assert not replace(identity, started=identity.started - 1).is_running()
    assert replace(identity, started=None).is_running()


def test_without_proc_the_number_alone_is_known(child):
    process, identity = child
    assert identity.is_running(NO_PROC)
    bare = this_process(NO_PROC)
    assert bare == ProcessIdentity(os.uname().nodename, os.getpid())
    process.kill()
    process.wait()
    assert not identity.is_running(NO_PROC)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_process_runs():
    command = [sys.executable, "-c", ANOTHER_USER, str(os.getpid())]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize(
    ("one", "other", "shares"),
    [
        (ProcessIdentity("a", 1, "x"), ProcessIdentity("a", 2, "x"), True),
        (ProcessIdentity("a", 1, "x"), ProcessIdentity("container", 2, "x"), True),
        (ProcessIdentity("a", 1, "x"), ProcessIdentity("a", 1, "y"), False),
        (ProcessIdentity("a", 1, "x"), ProcessIdentity("a", 1), False),
        (ProcessIdentity("a", 1), ProcessIdentity("a", 2), True),
        (ProcessIdentity("a", 1), ProcessIdentity("b", 1), False),
    ],
)
def test_two_processes_share_a_kernel(one, other, shares):
    assert one.shares_kernel(other) is shares
    assert other.shares_kernel(one) is shares


@pytest.mark.skipif(not IS_LINUX, reason="there is no /proc")
def test_a_programs_name_may_hold_anything(tmp_path):
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to(SLEEP[0])
    with subprocess.Popen([str(program), *SLEEP[1:]]) as process:
        try:
            assert ProcessIdentity("x", process.pid).is_running()
        finally:
            process.kill()


@pytest.mark.skipif(not IS_LINUX, reason="there are no namespaces")
def test_a_proc_of_another_namespace_is_not_believed():
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", IDENTITY]
    process = subprocess.run(command, input="\n", capture_output=True, text=True, check=False)
    if process.returncode != 0:
        pytest.skip(f"no namespaces for us: {process.stderr.strip()}")
    assert "pid=1," in process.stdout
    assert process.stdout.endswith(" True\n"), "in its /proc, process 1 is the machine's"
