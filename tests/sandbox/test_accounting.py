"""The kernel's accounts, read from made-up ones, from none, from untrue ones, and once from this machine's."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoresearch_jax.sandbox import accounting as accounts
from autoresearch_jax.sandbox.accounting import (
    PROC,
    STILL_SECONDS,
    AccountingError,
    CpuUsage,
    LinuxAccounting,
    try_accounting,
)

TICKS = os.sysconf("SC_CLK_TCK")
CPUS = (0, 2)  # that the process may use, of three
BURN = "import sys\nprint(flush=True)\nwhile True: pass"
PATIENCE_SECONDS = 300.0


class Kernel:
    """Accounts in a folder, in the form in which Linux tells them; amounts in seconds."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.cgroups = folder / "cgroup"
        self.own = 50.0  # what the process has computed, as its own clock tells
        self.wall = 1000.0
        names = ("user", "system", "idle", "irq", "softirq", "steal")
        self._cpus = [dict.fromkeys(names, 100.0) for _ in range(3)]
        (self.proc / "self" / "task").mkdir(parents=True)
        self.cgroups.mkdir()
        self.thread(1, on_cpu=1.0)
        self.spend(0)

    def thread(self, number: int, on_cpu: float, delay: float = 0.0) -> None:
        """Sets the account of a thread, which may be new."""
        folder = self.proc / "self" / "task" / str(number)
        folder.mkdir(exist_ok=True)
        (folder / "schedstat").write_text(f"{round(on_cpu * 1e9)} {round(delay * 1e9)} 17\n")

    def end(self, number: int) -> None:
        """Ends a thread."""
        folder = self.proc / "self" / "task" / str(number)
        (folder / "schedstat").unlink()
        folder.rmdir()

    def spend(self, cpu: int, **seconds: float) -> None:
        """Adds to the account of a processor."""
        for name, more in seconds.items():
            self._cpus[cpu][name] += more
        lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
        for number, told in enumerate(self._cpus):
            user, system, idle, irq, softirq, steal = (round(seconds * TICKS) for seconds in told.values())
            lines.append(f"cpu{number} {user} 0 {system} {idle} 0 {irq} {softirq} {steal} 0 0")
        (self.proc / "stat").write_text("\n".join([*lines, "intr 0", "btime 0", ""]))

    def groups(self, *lines: str) -> None:
        """Sets the control groups that the process is in."""
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def throttle(self, group: str, **fields: int) -> None:
        """Sets what a control group, a folder below that of all, tells of throttling."""
        folder = self.cgroups / group
        folder.mkdir(parents=True, exist_ok=True)
        told = {"nr_periods": 5, "nr_throttled": 2, **fields}
        (folder / "cpu.stat").write_text("".join(f"{name} {value}\n" for name, value in told.items()))

    def open(self) -> LinuxAccounting:
        return LinuxAccounting(self.proc, self.cgroups)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(CPUS), raising=False)
    monkeypatch.setattr(time, "process_time", lambda: kernel.own)

    def monotonic() -> float:
        kernel.wall += 10.0  # between two readings
        return kernel.wall

    monkeypatch.setattr(accounts.time, "monotonic", monotonic)
    return kernel


@pytest.fixture
def accounting(kernel: Kernel) -> Iterator[LinuxAccounting]:
    with closing(kernel.open()) as accounting:
        yield accounting


def gone(before: CpuUsage, after: CpuUsage) -> dict[str, float]:
    """What was added between two readings, without the wall time."""
    names = ("on_cpu", "delay", "others", "steal", "throttled")
    return {name: pytest.approx(getattr(after, name) - getattr(before, name), abs=1e-6) for name in names}


NOTHING = {"on_cpu": 0.0, "delay": 0.0, "others": 0.0, "steal": 0.0, "throttled": 0.0}


@pytest.mark.parametrize("seconds", [{"steal": 1e4}, {"user": 30.0}, {"user": -2.0}])
def test_processors_that_were_used_for_longer_than_there_was_time_are_named(
    seconds: dict[str, float], kernel: Kernel, accounting: LinuxAccounting
) -> None:
    accounting.read()
    kernel.spend(0, **seconds)
    with pytest.raises(AccountingError) as caught:
        accounting.read()
    assert str(kernel.proc / "stat") in str(caught.value)


def test_threads_are_summed_also_those_that_come_and_go(kernel: Kernel, accounting: LinuxAccounting) -> None:
    before = accounting.read()
    kernel.thread(1, on_cpu=1.5, delay=0.25)
    kernel.thread(2, on_cpu=4.0, delay=2.0)  # has run since it began
    second = accounting.read()
    assert gone(before, second) == {**NOTHING, "on_cpu": 4.5, "delay": 2.25}
    kernel.end(2)
    third = accounting.read()
    assert gone(second, third) == NOTHING, "what it had is not taken back"
    kernel.thread(2, on_cpu=0.5)  # another thread of the same number
    assert gone(third, accounting.read()) == {**NOTHING, "on_cpu": 0.5}


def test_no_file_is_kept_open_of_a_thread_that_ended(kernel: Kernel, accounting: LinuxAccounting) -> None:
    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").exists():
        pytest.skip("there is no /proc")
    accounting.read()
    before = num_open()
    for number in range(100, 140):
        kernel.thread(number, on_cpu=0.001)
        accounting.read()
        kernel.end(number)
    accounting.read()
    assert num_open() == before
    accounting.close()
    assert num_open() == before - 1


def test_others_are_what_ran_on_our_processors_less_our_own(kernel: Kernel, accounting: LinuxAccounting) -> None:
    before = accounting.read()
    kernel.spend(0, user=2.0, system=1.0, idle=7.0)
    kernel.spend(1, user=100.0, steal=100.0)  # not one of ours
    kernel.spend(2, irq=0.25, softirq=0.25)
    kernel.own += 1.5
    kernel.thread(1, on_cpu=2.5)
    assert gone(before, accounting.read()) == {**NOTHING, "on_cpu": 1.5, "others": 2.0}


@pytest.mark.parametrize(
    ("lines", "group"),
    [
        (["0::/"], ""),
        (["0::/user/job"], "user/job"),
        (["0::/user/job"], "user"),  # a group around it has a quota, too
        (["3:memory:/elsewhere", "2:cpu,cpuacct:/job", "0::/"], "cpu,cpuacct/job"),
        (["2:cpu,cpuacct:/job"], "cpu/job"),  # under the name of the one controller
        (["0::/../../job"], ""),  # outside of this namespace: what is seen of it is its root
    ],
)
def test_throttling_is_that_of_the_group_and_of_those_around_it(lines: list[str], group: str, kernel: Kernel) -> None:
    is_first_version = group.startswith("cpu")
    kernel.groups(*lines)
    kernel.throttle(group)
    kernel.throttle("another", throttled_usec=10**9, throttled_time=10**12)
    with closing(kernel.open()) as accounting:
        before = accounting.read()
        kernel.throttle(
            group, **({"throttled_time": 2_500_000_000} if is_first_version else {"throttled_usec": 2_500_000})
        )
        assert gone(before, accounting.read()) == {**NOTHING, "throttled": 2.5}


@pytest.mark.parametrize("account", [{"on_cpu": 5.0, "delay": 0.5}, {"on_cpu": 4.0, "delay": 1.0}])
def test_an_account_that_goes_backwards_is_not_believed(
    account: dict[str, float], kernel: Kernel, accounting: LinuxAccounting
) -> None:
    kernel.thread(1, on_cpu=5.0, delay=1.0)
    accounting.read()
    kernel.thread(1, **account)
    with pytest.raises(AccountingError, match="backwards"):
        accounting.read()


def test_an_account_that_stands_still_while_the_process_computes_is_not_believed(
    kernel: Kernel, accounting: LinuxAccounting
) -> None:
    kernel.own += 0.9 * STILL_SECONDS
    accounting.read()
    kernel.thread(1, on_cpu=1.1)
    kernel.own += 0.9 * STILL_SECONDS
    accounting.read()
    kernel.own += 1.1 * STILL_SECONDS
    with pytest.raises(AccountingError, match="stands still"):
        accounting.read()


def test_accounts_are_tried_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are there and always say the same are found out before a trial counts on them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(CPUS), raising=False)
    kernel = Kernel(tmp_path)
    kernel.thread(1, on_cpu=0.0)
    kernel.open().close()
    with pytest.raises(AccountingError, match="stands still"):
        try_accounting(kernel.proc, kernel.cgroups)


def test_without_proc_there_are_no_accounts(tmp_path: Path) -> None:
    """As on macOS."""
    with pytest.raises(AccountingError) as caught:
        try_accounting(tmp_path / "proc", tmp_path / "cgroup")
    assert str(tmp_path / "proc/self/task") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("self/task/1/schedstat", None),  # of a kernel that was built without CONFIG_SCHED_INFO
        ("self/task/1/schedstat", "a b c\n"),
        ("stat", None),
        ("stat", "cpu1 1 0 1 1 0 0 0 0\n"),
        ("stat", "cpu0 1 2 3\n"),
    ],
)
def test_missing_accounts_are_named(name: str, text: str | None, kernel: Kernel) -> None:
    path = kernel.proc / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(AccountingError) as caught:
        kernel.open()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not (PROC / "self" / "schedstat").exists(), reason="this kernel keeps no accounts of threads")
def test_this_machine_s_kernel_tells_what_this_process_and_another_one_ran() -> None:
    with closing(try_accounting()) as accounting:
        before, own = accounting.read(), time.process_time()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.process_time() - own < 0.5:
            assert time.monotonic() < deadline
        after, computed = accounting.read(), time.process_time() - own
        assert after.on_cpu - before.on_cpu == pytest.approx(computed, rel=0.1)
        assert after.wall > before.wall
        assert after.delay >= before.delay
        assert after.throttled >= before.throttled

        burner = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE)
        try:
            assert burner.stdout is not None
            burner.stdout.readline()
            burnt = _cpu_seconds(burner.pid)
            before = accounting.read()
            while (more := _cpu_seconds(burner.pid) - burnt) < 0.5:
                assert time.monotonic() < deadline + PATIENCE_SECONDS
                time.sleep(0.01)
            others = accounting.read().others - before.others
        finally:
            burner.kill()
            burner.communicate()
        assert others > 0.8 * more, "others may have run beside it, too"


def _cpu_seconds(pid: int) -> float:
    user, system = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / TICKS
