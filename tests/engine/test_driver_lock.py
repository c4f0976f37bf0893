"""The lock of a run: one driver at a time, on one machine or several, with the kernel's locks or without."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from lock_driver import FLOCK, Wanted

from autoresearch_jax.engine.driver_lock import DriverLock, DriverLockError, LockTiming
from autoresearch_jax.engine.run_folder import RunFolder, RunFolderError
from autoresearch_jax.sandbox.machine import this_process

ELSEWHERE = {"host": "elsewhere", "boot": "another-boot"}
DEAD = {"pid": os.getppid(), "started": 0}  # whose number is another process's now
QUICK = {"retry": 0.05, "settle": 0.05, "beat": 0.02, "watch": 1.0}
PROBER = """
import sys
from pathlib import Path
from autoresearch_jax.engine.driver_lock import DriverLock
lock = DriverLock(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    lock.holder()
"""
needs_no_flock = pytest.mark.skipif(FLOCK is None, reason="the number of flock is not known for this processor")


class Driver:
    """A process that was told to take the lock."""

    def __init__(self, wanted: Wanted) -> None:
        self.process = subprocess.Popen(
            wanted.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.name = f"pid {self.process.pid} on {this_process().host}"
        assert self.line() == "ready"

    def tell(self, word: str) -> str:
        """Its answer to a word; the first word of all, whatever it is, has it take the lock."""
        self.process.stdin.write(f"{word}\n")
        return self.line()

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)


Start = Callable[..., Driver]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "night").mkdir()
    return tmp_path / "night" / "driver.lock"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Starts a process that will take the lock when it is told the first word."""
    drivers: list[Driver] = []

    def start_one(**wanted) -> Driver:
        drivers.append(Driver(Wanted(str(path), **{"timing": QUICK, **wanted})))
        return drivers[-1]

    yield start_one
    for driver in drivers:
        driver.end()
        driver.process.stdin.close()
        driver.process.stdout.close()


def quick(path: Path, **timing: float) -> DriverLock:
    return DriverLock(path, LockTiming(**{**QUICK, **timing}))


def record(**differing) -> str:
    """What a process has left that differs from this one."""
    return json.dumps({**asdict(this_process()), "token": "its own", **differing}) + "\n"


def takes_it(lock: DriverLock) -> list[str]:
    """Takes the lock and lets go of it; returns what it was told meanwhile."""
    notices: list[str] = []
    lock.acquire(notices.append)
    lock.require()
    lock.release()
    return notices


def leave(path: Path, seconds_ago: float, left: str) -> None:
    """Writes what a process left whose last sign of life was so long ago by this machine's clock."""
    path.write_text(left)
    os.utime(path, (time.time() - seconds_ago,) * 2)


def refusal(lock: DriverLock) -> str:
    with pytest.raises(DriverLockError) as caught:
        lock.acquire()
    return str(caught.value)


@pytest.mark.parametrize("has_flock", [True, pytest.param(False, marks=needs_no_flock)])
def test_the_second_of_two_processes_is_refused_by_the_first_ones_name(path, start, has_flock):
    first, second = start(has_flock=has_flock), start(has_flock=has_flock)
    assert first.tell("go") == "held"
    written = path.read_text()
    assert second.tell("go") == f"refused: {path.parent}: {first.name} is at work on this run already"
    assert path.read_text() == written, "who is refused leaves everything as it is"
    assert first.tell("require") == "still held"
    assert first.tell("release") == "released"
    assert path.read_text() == ""
    assert start(has_flock=has_flock).tell("go") == "held"


@pytest.mark.parametrize("has_flock", [True, pytest.param(False, marks=needs_no_flock)])
def test_a_killed_drivers_lock_is_taken_over_at_once(path, start, has_flock):
    first = start(has_flock=has_flock)
    first.tell("go")
    first.process.kill()  # and nobody asks for its status yet
    second = start(has_flock=has_flock, timing={**QUICK, "retry": 5.0})
    assert second.tell("go") == "held", "without a notice that it waits"
    assert json.loads(path.read_text())["pid"] == second.process.pid


def test_what_a_driver_started_does_not_hold_its_lock(path, start, tmp_path):
    code = (
        "import subprocess, sys; from pathlib import Path; from autoresearch_jax.engine.driver_lock import DriverLock\n"
        "DriverLock(Path(sys.argv[1])).acquire()\n"
        "child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL); print(child.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            assert takes_it(quick(path)) == []
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(record(namespace="pid:[1]"), id="a container of this machine that is gone"),
        pytest.param(record(**DEAD), id="a process whose number is another's now"),
        pytest.param("\0" * 512, id="a power cut"),
        pytest.param("", id="nobody"),
    ],
)
def test_what_a_dead_driver_left_is_taken_over_at_once(path, left):
    path.write_text(left)
    assert quick(path).holder() is None
    assert takes_it(quick(path, watch=600)) == []
    assert path.read_text().strip() == ""


@pytest.mark.parametrize("left", [record(boot="the-boot-before"), f"pid 1 on {this_process().host}\n"])
def test_what_this_machine_or_an_older_version_left_long_ago_is_taken_over_at_once(path, left):
    leave(path, 601, left)
    assert quick(path).holder() is None
    assert takes_it(quick(path, watch=600)) == []


@pytest.mark.parametrize("seconds_ago", [0, -3600])
def test_a_machine_that_was_started_anew_at_once_costs_no_more_than_the_watch(path, seconds_ago):
    leave(path, seconds_ago, record(boot="the-boot-before"))
    waiting, done = takes_it(quick(path, watch=0.1))
    assert "was at work on this run last: waiting up to 0.1 s for a sign of life" in waiting
    assert done.endswith("this process takes over")


@needs_no_flock
def test_without_locks_no_clock_says_that_another_boot_of_the_same_name_is_gone(path, start):
    leave(path, 3600, record(boot="the-boot-before"))
    second = start(has_flock=False, timing={**QUICK, "watch": 0.1})
    assert second.tell("go").startswith("notice: ")
    assert second.line().endswith("this process takes over")
    assert second.line() == "held"


@needs_no_flock
@pytest.mark.parametrize("has_flock", [True, False])
def test_a_living_driver_on_another_machine_of_the_same_name_keeps_its_run(path, start, has_flock):
    other = start(me={"boot": "another-boot"}, has_flock=False)
    other.tell("go")
    assert quick(path).holder() == other.name
    second = start(has_flock=has_flock, timing={**QUICK, "watch": 20.0})
    assert second.tell("go").startswith("notice: ")
    assert second.line() == f"refused: {path.parent}: {other.name} is at work on this run already"
    assert other.tell("require") == "still held"


@pytest.mark.parametrize("left", [record(**ELSEWHERE), "pid 12 on elsewhere\n", "{half a rec"])
def test_a_lock_of_another_machine_without_a_sign_of_life_is_taken_over(path, left):
    path.write_text(left)
    waiting, done = takes_it(quick(path, watch=0.1))
    assert "was at work on this run last: waiting up to 0.1 s for a sign of life" in waiting
    assert done.endswith("this process takes over")


@needs_no_flock
def test_a_driver_on_another_machine_shows_that_it_is_alive_until_it_is_killed(path, start):
    # The kernel knows nothing of its lock, which is how it is on storage where each machine has locks of its own.
    other = start(me=ELSEWHERE, has_flock=False)
    other.tell("go")
    name = f"pid {other.process.pid} on elsewhere"
    assert refusal(quick(path, watch=20)) == f"{path.parent}: {name} is at work on this run already"
    assert quick(path).holder() == name
    other.end()
    notices = takes_it(quick(path, watch=0.5))
    assert notices[0].startswith(f"{path.parent}: {name} was at work on this run last")
    assert quick(path).holder() is None


@needs_no_flock
def test_a_driver_that_slept_too_long_does_not_get_its_lock_back(path, start):
    sleeper = start(me=ELSEWHERE, has_flock=False)
    sleeper.tell("go")
    sleeper.process.send_signal(signal.SIGSTOP)
    lock = quick(path, watch=0.3)
    lock.acquire()
    written = path.read_text()
    sleeper.process.send_signal(signal.SIGCONT)
    lost = sleeper.tell("require")
    assert lost.startswith(f"lost: {path.parent}: pid {os.getpid()} on {this_process().host} took this run over")
    time.sleep(10 * QUICK["beat"])
    assert sleeper.tell("release") == "released"
    assert path.read_text() == written
    lock.require()
    lock.release()


@needs_no_flock
def test_a_driver_that_was_replaced_is_told_though_the_other_one_has_ended(path, start):
    sleeper = start(me=ELSEWHERE, has_flock=False)
    sleeper.tell("go")
    sleeper.process.send_signal(signal.SIGSTOP)
    takes_it(quick(path, watch=0.3))
    sleeper.process.send_signal(signal.SIGCONT)
    assert sleeper.tell("require").startswith(f"lost: {path.parent}: another process took this run over")


def test_waiting_can_be_interrupted(path, start):
    path.write_text(record(**ELSEWHERE))
    driver = start(timing={**QUICK, "watch": 600.0, "beat": 600.0})
    assert driver.tell("go").startswith("notice: ")
    driver.process.send_signal(signal.SIGINT)
    assert driver.line() == "interrupted"
    assert path.read_text() == record(**ELSEWHERE)
    path.write_text("")
    assert takes_it(quick(path)) == [], "it holds nothing, though it is still there"


@needs_no_flock
def test_without_locks_a_process_of_another_namespace_is_known_by_its_signs_of_life_alone(path, start):
    other = start(me={"namespace": "pid:[1]"}, has_flock=False)
    other.tell("go")
    second = start(has_flock=False, timing={**QUICK, "watch": 20.0})
    assert second.tell("go").startswith("notice: ")
    assert second.line() == f"refused: {path.parent}: {other.name} is at work on this run already"


@needs_no_flock
def test_without_locks_a_number_that_is_another_processs_now_says_nothing(path, start):
    path.write_text(record(pid=os.getpid(), started=this_process().started - 1))
    assert start(has_flock=False).tell("go") == "held"


@pytest.mark.parametrize("has_flock", [True, pytest.param(False, marks=needs_no_flock)])
def test_of_twenty_that_start_at_once_exactly_one_goes_on(path, start, has_flock):
    path.write_text(record(**DEAD))
    drivers = [start(has_flock=has_flock, timing={**QUICK, "settle": 1.0}) for _ in range(20)]
    for driver in drivers:
        driver.process.stdin.write("go\n")
    answers = [driver.line() for driver in drivers]
    assert answers.count("held") == 1
    winner = drivers[answers.index("held")]
    assert all(answer.endswith("is at work on this run already") for answer in answers if answer != "held")
    assert winner.tell("require") == "still held"


def test_who_looks_has_the_kernels_lock_for_a_moment_which_is_waited_for(path):
    path.write_text(record(**DEAD))
    looks = path.open()
    fcntl.flock(looks, fcntl.LOCK_SH)
    threading.Timer(0.1, looks.close).start()
    assert takes_it(quick(path, retry=20)) == []


def test_who_only_looks_never_keeps_a_driver_from_starting(path):
    probers = [
        subprocess.Popen([sys.executable, "-c", PROBER, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        for prober in probers:
            assert prober.stdout.readline() == "ready\n"
        for _ in range(30):
            path.write_text(record(**DEAD))  # else they do not ask the kernel
            takes_it(DriverLock(path))
        assert [prober.poll() for prober in probers] == [None] * 3
    finally:
        for prober in probers:
            prober.kill()
            prober.communicate()


def test_who_looks_is_told_who_is_there(path):
    lock = quick(path)
    assert lock.holder() is None
    lock.acquire()
    assert quick(path).holder() == f"pid {os.getpid()} on {this_process().host}"
    path.write_text("pid 12 on box\n")  # a driver of an older version
    assert quick(path).holder() == "pid 12 on box"
    path.write_text("{half a rec")
    assert quick(path).holder() == "another process"
    path.write_text(record())
    lock.release()


def test_a_sign_of_life_long_past_is_none(path):
    path.write_text(record(**ELSEWHERE))
    assert quick(path).holder() == f"pid {os.getpid()} on elsewhere"
    os.utime(path, (time.time() - 3600,) * 2)
    assert quick(path).holder() is None


def test_a_folder_that_is_gone_harms_nobody(path, monkeypatch):
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    lock = quick(path)
    lock.acquire()
    path.unlink()
    path.parent.rmdir()
    time.sleep(5 * QUICK["beat"])
    lock.require()
    lock.release()
    assert failures == []


def test_a_sleeping_heartbeat_does_not_keep_a_process_from_ending(path, start):
    driver = start(timing={**QUICK, "beat": 3600.0})
    driver.tell("go")
    driver.tell("leave")
    assert driver.process.wait(20) == 0


def test_a_folder_that_cannot_be_used(path, tmp_path):
    path.mkdir()
    assert refusal(quick(path)) == (
        f"{path.parent}: driver.lock cannot be used: Is a directory: a run needs a folder that can be written to"
    )


@pytest.mark.parametrize(
    "values",
    [{"pid": -1}, {"pid": 2**40}, {"pid": "12"}, {"host": 5}, {"boot": 5}, {"started": "then"}, {"namespace": []}],
)
def test_a_record_that_makes_no_sense_is_nobodys(path, values):
    path.write_text(record(**values))
    waiting, _ = takes_it(quick(path, watch=0.05))
    assert "another process was at work" in waiting


def test_a_run_hands_on_what_its_lock_says(path):
    path.write_text(record(**ELSEWHERE))
    notices: list[str] = []
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(RunFolderError, match=r"night: pid \d+ on elsewhere is at work on this run already"):
            RunFolder(path.parent).lock(notices.append).__enter__()
    finally:
        ended.set()
        thread.join()
    assert len(notices) == 1
    path.write_text("")
    with RunFolder(path.parent).lock() as lock:
        lock.require()
        path.write_text(record(**ELSEWHERE))
        with pytest.raises(DriverLockError, match="on elsewhere took this run over"):
            lock.require()
