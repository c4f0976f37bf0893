"""Candidates that would bend the clock: by more threads than cores, and by what they leave in caches and memory.

A traced program starts no threads and reads no clock. What its runtime could do for it is done here in processes of
their own, on this machine's accounts.
"""

import json
import math
import os
import subprocess
import sys
import time
from statistics import fmean, median

import jax
import jax.numpy as jnp
import pytest

from autoresearch_jax.sandbox.accounting import PROC, CpuUsage
from autoresearch_jax.tasks.lm.clock import COUNTED_RUNS, UNCOUNTED_RUNS, AttendedClock, Reference, wait_for_rest

NUM_THREADS = 16
CROWD_SECONDS = 2.0
TICK_SECONDS = 0.05  # by which accounts that come in ticks, and are not read in one moment, may differ
DIRTY_BYTES = 256 << 20  # more than any cache has
REPEATS = 24
TOLERANCE = 0.15
DEVIATION_OVER_MAD, MEDIAN_OVER_MEAN_ERROR = 1.4826, 1.2533  # of normal noise

# Its threads compute without the interpreter's lock. It prints what its clock counted and what the accounts say.
CROWD = """
import json, sys, threading, time, zlib
from autoresearch_jax.sandbox.accounting import LinuxAccounting
from autoresearch_jax.tasks.lm.clock import AttendedClock

num_threads, seconds = int(sys.argv[1]), float(sys.argv[2])
data = bytes(range(256)) * 4096
stop = threading.Event()

def compute():
    while not stop.is_set():
        zlib.compress(data, 6)

threads = [threading.Thread(target=compute) for _ in range(num_threads)]
for thread in threads:
    thread.start()
accounting = LinuxAccounting()
clock = AttendedClock(accounting, lambda: 0.01, 0.01)
first, begin = accounting.read(), clock.now()
while clock.wall() - first.wall < seconds:
    time.sleep(0.02)
    clock.now()
last, end = accounting.read(), clock.now()
stop.set()
for thread in threads:
    thread.join()
gone = {name: getattr(last, name) - getattr(first, name) for name in ("wall", "on_cpu", "delay", "throttled")}
print(json.dumps({**gone, "counted": end - begin}))
"""

needs_accounts = pytest.mark.skipif(
    not (PROC / "self" / "schedstat").exists(), reason="this kernel keeps no accounts of threads"
)


def used_by_anyone() -> tuple[float, float]:
    """Seconds that all processors of this process computed so far, and those that a hypervisor took."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in (PROC / "stat").read_text().splitlines()]
    busy = sum(int(row[i]) for row in rows if row[0] in ours for i in (1, 2, 3, 6, 7))
    steal = sum(int(row[8]) for row in rows if row[0] in ours)
    ticks = os.sysconf("SC_CLK_TCK")
    return busy / ticks, steal / ticks


@needs_accounts
def test_far_more_threads_than_cores_get_no_more_time() -> None:
    """They wait for each other, and the kernel's account of their waiting says nothing of whom they wait for."""
    busy, steal = used_by_anyone()
    command = [sys.executable, "-c", CROWD, str(NUM_THREADS), str(CROWD_SECONDS)]
    own = os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    child = os.times().children_user + os.times().children_system - own.children_user - own.children_system
    busy_after, steal_after = used_by_anyone()
    others, stolen = max(0.0, busy_after - busy - child), steal_after - steal

    found = json.loads(done.stdout)
    num_cpus = len(os.sched_getaffinity(0))
    assert found["delay"] > (NUM_THREADS / num_cpus - 1) / 2 * found["on_cpu"], "they crowd each other"
    excused = found["wall"] - found["counted"]
    assert excused <= others + stolen + TICK_SECONDS
    if others + stolen < 0.05 * CROWD_SECONDS:  # no other process was at work
        assert found["counted"] > 0.9 * found["wall"]


class Idle:
    """Accounts of a process that has the machine to itself."""

    def read(self) -> CpuUsage:
        now = time.monotonic()
        return CpuUsage(now, on_cpu=now, delay=0.0, others=0.0, steal=0.0, throttled=0.0)


class Timed:
    """A clock between steps of one kind, and the times by which it counts the machine's speed."""

    def __init__(self, reference: Reference, reference_seconds: float) -> None:
        self._reference = reference
        self._runs: list[float] = []
        self.clock = AttendedClock(Idle(), self._run, reference_seconds, wait_for_rest=wait_for_rest)

    def _run(self) -> float:
        self._runs.append(self._reference.run())
        return self._runs[-1]

    @property
    def counted(self) -> list[float]:
        """The mean of each calibration's runs that count."""
        each = UNCOUNTED_RUNS + COUNTED_RUNS
        assert len(self._runs) == each * REPEATS
        return [fmean(self._runs[begin + UNCOUNTED_RUNS : begin + each]) for begin in range(0, each * REPEATS, each)]


@pytest.mark.slow
def test_caches_and_memory_in_a_bad_state_slow_no_counted_run_of_the_reference() -> None:
    """Else a candidate that streams through memory would be taken for a slow machine, and be given time for it."""
    reference = Reference()
    dirty_step = jax.jit(lambda x: (x * 1.0001)[::-1] + x.sum(), donate_argnums=0)
    state = jax.block_until_ready(dirty_step(jnp.ones(DIRTY_BYTES // 4, jnp.float32)))
    small_step = jax.jit(lambda x: jnp.tanh(x @ x))
    small = jax.block_until_ready(small_step(jnp.ones((64, 64), jnp.float32)))
    usual = reference.measure()
    dirty, honest = Timed(reference, usual), Timed(reference, usual)
    for _ in range(REPEATS):  # in turn, so that what else goes on meets both
        state = jax.block_until_ready(dirty_step(state))
        dirty.clock.calibrate()
        small = jax.block_until_ready(small_step(small))
        honest.clock.calibrate()
    slower = [math.log(seconds / other) for seconds, other in zip(dirty.counted, honest.counted, strict=True)]
    middle = median(slower)
    scatter = DEVIATION_OVER_MAD * median(abs(one - middle) for one in slower)
    error = MEDIAN_OVER_MEAN_ERROR * scatter / math.sqrt(REPEATS)
    assert middle <= math.log(1 + TOLERANCE) + 2 * error  # of which a quiet machine has next to none
