"""What works beside a trial yields to it: sessions behind all others, and time without a processor not counted."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cages import Run
from marked_processes import comes_true

from autoresearch_jax.sandbox.priority import (
    SESSION_DESCRIPTOR,
    Priority,
    behind_other_sessions,
    divides_by_session,
    hand_on_session,
    lower_priority_of_this_thread,
    seconds_waited,
    take_idle_time_only,
)
from autoresearch_jax.sandbox.process import JsonWorker, bare_environment, bring_sessions_forward, run_command
from autoresearch_jax.sandbox.sandbox import Sandbox

needs_sessions = pytest.mark.skipif(not divides_by_session(), reason="the kernel divides by process, not by session")
TELL = "print(open('/proc/self/autogroup').read().split()[-1])"


def in_thread(take: Callable[[], None], action: Callable[[], object]) -> None:
    """Does something in a thread of another priority, which a thread cannot leave again."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            take()
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@needs_sessions
@pytest.mark.parametrize("lowered", [False, True])
def test_an_agent_beside_a_trial_yields_with_all_sessions_that_it_opens(lowered: bool, tmp_path: Path) -> None:
    own = f'{sys.executable} -c "{TELL}"'
    wait = "until grep -q nice.19 /proc/self/autogroup; do sleep 0.02; done; " if lowered else ""
    command = f"{own}; setsid -w sh -c '{wait}grep -o [0-9]*$ /proc/self/autogroup'"

    def run() -> None:
        run_command(command, cwd=tmp_path, environment=os.environ, log_path=tmp_path / "log", seconds=60.0)

    in_thread(lower_priority_of_this_thread if lowered else lambda: None, run)
    assert (tmp_path / "log").read_text().split() == (["19", "19"] if lowered else ["0", "0"])


def json_worker(code: str, folder: Path) -> JsonWorker:
    command, environment = [sys.executable, "-c", code], bare_environment(os.environ)
    return JsonWorker(command, environment=environment, cwd=folder, log_path=folder / "log")


def niceness_of(word: str) -> set[int]:
    """Of the sessions of Python processes with a word in their command."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # gone meanwhile
            command = path.read_text().split("\0")
            if "python" in command[0] and any(word in argument for argument in command):
                found.add(int((path.parent / "autogroup").read_text().split()[-1]))
    return found


@needs_sessions
@pytest.mark.parametrize("lowered", [False, True])
def test_a_confined_process_beside_a_trial_yields(
    lowered: bool, cage: Sandbox, run: Run, scratch: Path, tmp_path: Path
) -> None:
    """Its session may be one that bubblewrap opens, which is lowered a moment later."""
    code = f"# {tmp_path.name}\nimport os, time\nopen('begun', 'w')\nwhile not os.path.exists('end'): time.sleep(0.02)"
    take = take_idle_time_only if lowered else lambda: None
    thread = threading.Thread(target=lambda: in_thread(take, lambda: run(cage, code)))
    thread.start()
    try:
        assert comes_true(lambda: (scratch / "begun").exists(), 60.0)
        assert comes_true(lambda: niceness_of(f"# {tmp_path.name}\n") == {19 if lowered else 0}, 60.0)
    finally:
        (scratch / "end").touch()
        thread.join()


@needs_sessions
def test_an_agent_is_brought_forward_with_the_sessions_that_it_opens_from_then_on(tmp_path: Path) -> None:
    tell = "grep -o nice.[0-9]*$ /proc/self/autogroup >> log"
    wait = "until grep -q nice.{} /proc/self/autogroup; do sleep 0.02; done; {}"
    command = f"{wait.format(19, tell)}; {wait.format(0, tell)}; setsid -w sh -c '{wait.format(0, tell)}'"

    def run() -> None:
        run_command(command, cwd=tmp_path, environment=os.environ, log_path=tmp_path / "out", seconds=60.0)

    thread = threading.Thread(target=lambda: in_thread(lower_priority_of_this_thread, run))
    thread.start()
    assert comes_true(lambda: (tmp_path / "log").exists() and "19" in (tmp_path / "log").read_text(), 60.0)
    bring_sessions_forward()
    thread.join()
    assert (tmp_path / "log").read_text().split() == ["nice", "19", "nice", "0", "nice", "0"]


@needs_sessions
@pytest.mark.parametrize("lowered", [False, True])
def test_a_worker_beside_a_trial_yields(lowered: bool, tmp_path: Path) -> None:
    code = "import json; print(json.dumps({'nice': int(open('/proc/self/autogroup').read().split()[-1])}), flush=True)"
    found = []

    def run() -> None:
        with closing(json_worker(code, tmp_path)) as worker:
            found.append(worker.receive(60.0)["nice"])

    in_thread(take_idle_time_only if lowered else lambda: None, run)
    assert found == [19 if lowered else 0]


@needs_sessions
def test_a_worker_that_is_needed_comes_forward(tmp_path: Path) -> None:
    code = "import json, time\nwhile open('/proc/self/autogroup').read().split()[-1] != '0': time.sleep(0.02)\n"
    code = f"print('{{}}', flush=True)\n{code}print('{{}}', flush=True)"

    def run() -> None:
        with closing(json_worker(code, tmp_path)) as worker:
            worker.receive(60.0)
            worker.come_forward()
            worker.receive(60.0)

    in_thread(take_idle_time_only, run)


@needs_sessions
def test_a_session_that_was_handed_on_is_behind_the_others_for_a_time() -> None:
    code = f"""
import os
from autoresearch_jax.sandbox.priority import behind_other_sessions
tell = lambda: {TELL}
tell()
with behind_other_sessions():
    tell()
tell()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: (os.setsid(), hand_on_session()),
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "19", "0"]


def test_a_process_that_was_given_another_file_there_leaves_it_alone(tmp_path: Path) -> None:
    code = "from autoresearch_jax.sandbox.priority import behind_other_sessions as b\nwith b(): print('in')"
    with (tmp_path / "file").open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", code],
            preexec_fn=lambda: os.dup2(file.fileno(), SESSION_DESCRIPTOR),
            close_fds=False,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "in\n"
    assert (tmp_path / "file").read_text() == ""
    with behind_other_sessions():  # nothing was handed on to this process
        pass


@pytest.fixture
def _crowded() -> Iterator[None]:
    """This thread and what it starts share one processor with a process that is always busy."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    yield
    process.kill()
    process.wait()
    os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.skipif(not seconds_waited(os.getpid()), reason="the kernel does not tell how long a process waited")
@pytest.mark.usefixtures("_crowded")
def test_the_time_for_which_a_confined_process_had_no_processor_is_not_its_own(cage: Sandbox, run: Run) -> None:
    started = time.monotonic()
    outcome = run(cage, "import time\nwhile time.process_time() < 4.0: pass", wall_seconds=6.0)
    assert (outcome.words, outcome.returncode) == (None, 0)
    assert time.monotonic() - started > 6.0
    assert run(cage, "import time; time.sleep(60)", wall_seconds=0.5).words == "ran longer than 0.5 s"


def test_the_lowest_priorities_are_known_as_such() -> None:
    assert not Priority(os.SCHED_OTHER, 18).is_lowest
    assert Priority(os.SCHED_OTHER, 19).is_lowest
    assert not hasattr(os, "SCHED_IDLE") or Priority(os.SCHED_IDLE, 0).is_lowest
