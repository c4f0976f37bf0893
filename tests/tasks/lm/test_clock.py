"""The attended clock on a scripted machine, and the reference program that it calibrates by."""

import math
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_jax.sandbox.accounting import ATTENDED, PROC, WALL, AccountingError, CpuUsage, attended_seconds
from autoresearch_jax.tasks.lm import clock as reference
from autoresearch_jax.tasks.lm.clock import (
    LONGEST_WAIT_SECONDS,
    REFERENCE_SHARE,
    AttendedClock,
    Reference,
    wait_for_rest,
)

REFERENCE_SECONDS = 0.01  # of the reference program when the run began
STEP_SECONDS = 0.1
LONG = 100.0  # seconds of work, in which many samples are taken


@dataclass(frozen=True)
class Load:
    """What goes on in a second of the wall clock: seconds by the accounts, see `CpuUsage`."""

    on_cpu: float = 2.0
    delay: float = 0.0
    others: float = 0.0
    steal: float = 0.0
    throttled: float = 0.0


ALONE = Load()
HALVED = Load(on_cpu=1.0, delay=1.0, others=1.0)  # on both of two processors


class Machine:
    """A machine whose time goes on only by what it is told to do; it is its own accounting."""

    def __init__(self, reference: Callable[[], float] = lambda: REFERENCE_SECONDS) -> None:
        self.time = 1000.0
        self.told = CpuUsage(self.time, 5.0, 1.0, 300.0, 2.0, 0.0)
        self.is_fresh = False  # nothing but the reference has run since it ran last
        self.references = 0
        self.reference_wall = 0.0
        self.readings = 0
        self.fault: str | None = None
        self._reference = reference

    def wall(self) -> float:
        return self.time

    def read(self) -> CpuUsage:
        self.readings += 1
        if self.fault is not None:
            raise AccountingError(self.fault)
        return self.told

    def pass_time(self, seconds: float, load: Load = ALONE) -> None:
        told = self.told
        self.time += seconds
        self.told = CpuUsage(
            wall=self.time,
            on_cpu=told.on_cpu + seconds * load.on_cpu,
            delay=told.delay + seconds * load.delay,
            others=told.others + seconds * load.others,
            steal=told.steal + seconds * load.steal,
            throttled=told.throttled + seconds * load.throttled,
        )
        self.is_fresh = False

    def run_reference(self) -> float:
        seconds = self._reference()
        self.pass_time(seconds)
        self.references += 1
        self.reference_wall += seconds
        self.is_fresh = True
        return seconds

    def clock(self, reference_seconds: float = REFERENCE_SECONDS) -> AttendedClock:
        return AttendedClock(self, self.run_reference, reference_seconds, wall=self.wall)

    def train(self, clock: AttendedClock, seconds: float, load: Load = ALONE) -> float:
        """Makes steps for so long by the wall clock, calibrations left out; returns what the clock counted."""
        begin = clock.now()
        for _ in range(round(seconds / STEP_SECONDS)):
            if clock.is_due():
                clock.calibrate()
            self.pass_time(STEP_SECONDS, load)
            clock.now()
        return clock.now() - begin


def share(load: Load) -> float:
    """Of the wall time, what the clock counts while the load goes on."""
    machine = Machine()
    return machine.train(machine.clock(), LONG, load) / LONG


def test_alone_it_is_the_wall_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    assert machine.train(clock, LONG) == pytest.approx(LONG)
    found = clock.figures()
    assert (found["clock"], found["clock_fault"]) == (ATTENDED, None)
    assert found["attended_share"] == pytest.approx(1)
    assert found["machine_speed"] == pytest.approx(1)
    assert found["clock_seconds"] == pytest.approx(machine.reference_wall)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (HALVED, 0.5),
        (Load(on_cpu=1.5, delay=0.5, others=0.5), 0.75),
        (Load(on_cpu=1.0, others=1.0), 1.0),  # of a program that wants one processor, and has it
        (Load(on_cpu=2.0, delay=14.0), 1.0),  # 16 threads that are in each other's way
        (Load(on_cpu=1.0, delay=1.0, others=1.0, throttled=0.1), 1.0),  # its share of processor time is used up
        (Load(on_cpu=0.0, delay=1.0, others=2.0), 1.0),  # there is nothing to set against each other
        (Load(on_cpu=1.0, steal=1.0), 0.5),
        (Load(on_cpu=2.0, others=-0.01), 1.0),  # ticks that were counted late
    ],
)
def test_what_others_take_is_left_out_and_nothing_else(load: Load, expected: float) -> None:
    assert share(load) == pytest.approx(expected, abs=0.05)


@given(
    on_cpu=st.floats(0, 4),
    delay=st.floats(0, 100),
    others=st.floats(-0.1, 4),
    steal=st.floats(-0.1, 4),
    throttled=st.floats(0, 1),
)
def test_what_is_excused_is_bounded(on_cpu: float, delay: float, others: float, steal: float, throttled: float) -> None:
    """By what others ran and the hypervisor took, and by what threads waited; also where the program idles."""
    attended = attended_seconds(CpuUsage(1.0, on_cpu, delay, others, steal, throttled))
    excused = 1.0 - attended
    assert -1e-9 <= excused <= min(max(others, 0), delay) + max(steal, 0) + 1e-9
    assert attended >= 0
    if throttled:
        assert attended == 1.0


def test_it_follows_a_machine_that_changes() -> None:
    slower = 1.0
    machine = Machine(lambda: slower * REFERENCE_SECONDS)
    clock = machine.clock()
    assert machine.train(clock, LONG) == pytest.approx(LONG)
    slower = 1.5
    machine.train(clock, LONG)
    assert machine.train(clock, LONG) == pytest.approx(LONG / 1.5, rel=0.05)
    slower = 1.0
    machine.train(clock, LONG)
    assert machine.train(clock, LONG) == pytest.approx(LONG, rel=0.05)


def test_what_the_candidate_leaves_in_the_caches_does_not_count() -> None:
    """The first run of the reference after a step takes ten times as long, which says nothing of the machine."""

    def seconds() -> float:
        return REFERENCE_SECONDS * (1 if machine.is_fresh else 10)

    machine = Machine(seconds)
    clock = machine.clock()
    assert machine.train(clock, LONG) == pytest.approx(LONG)
    assert machine.references > 5
    assert clock.figures()["machine_speed"] == pytest.approx(1)


def test_calibrations_spend_nothing_of_the_budget_and_little_of_the_wall_time() -> None:
    machine = Machine(lambda: 5 * REFERENCE_SECONDS)
    clock = machine.clock(5 * REFERENCE_SECONDS)
    assert clock.is_due(), "there is a sample before the first step"
    begin, longest = clock.now(), 0.0
    for _ in range(1000):
        if clock.is_due():
            before, wall = clock.now(), clock.wall()
            clock.calibrate()
            assert clock.now() == pytest.approx(before)
            assert not clock.is_due(), "the next one has to be earned"
            longest = max(longest, clock.wall() - wall)
        machine.pass_time(STEP_SECONDS)
        clock.now()
    assert clock.now() - begin == pytest.approx(1000 * STEP_SECONDS)
    assert machine.references > 20
    assert machine.reference_wall <= REFERENCE_SHARE * 1000 * STEP_SECONDS + longest


def test_a_reference_that_ran_while_its_container_was_stopped_does_not_count() -> None:
    class Stopped(Machine):
        def run_reference(self) -> float:
            super().run_reference()
            self.pass_time(0.05, Load(on_cpu=0.0, throttled=1.0))
            return 10 * REFERENCE_SECONDS

    machine = Stopped()
    assert machine.train(machine.clock(), LONG) == pytest.approx(LONG)


def test_what_steps_left_running_is_waited_for_outside_of_the_budget() -> None:
    events: list[str] = []
    machine = Machine(lambda: events.append("reference") or REFERENCE_SECONDS)

    def wait_for_rest() -> bool:
        events.append("wait")
        machine.pass_time(0.2)
        return True

    clock = AttendedClock(machine, machine.run_reference, REFERENCE_SECONDS, machine.wall, wait_for_rest)
    before = clock.now()
    clock.calibrate()
    assert events[0] == "wait"
    assert events.count("wait") == 1
    assert clock.now() == pytest.approx(before)


def test_a_reference_that_ran_beside_other_threads_of_the_process_does_not_count() -> None:
    machine = Machine(lambda: 10 * REFERENCE_SECONDS)
    clock = AttendedClock(machine, machine.run_reference, REFERENCE_SECONDS, machine.wall, lambda: False)
    assert machine.train(clock, LONG) == pytest.approx(LONG)
    assert machine.references > 5


LOADS = st.builds(
    Load,
    on_cpu=st.floats(0, 4),
    delay=st.floats(0, 50),
    others=st.floats(-0.5, 4),
    steal=st.floats(0, 4),
    throttled=st.sampled_from([0.0, 0.0, 0.1]),
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.sampled_from([0.0, 0.001, 0.02, 0.3, 2.0, 40.0]), LOADS),
        st.tuples(st.just("calibrate"), st.one_of(st.just(0.0), st.floats(1e-6, 1)), LOADS),
    ),
    max_size=40,
)


@settings(max_examples=100)
@given(events=EVENTS, faulty_from=st.integers(0, 60))
def test_it_never_goes_back(events: list[tuple[str, float, Load]], faulty_from: int) -> None:
    reference = 0.0
    machine = Machine(lambda: reference)
    clock = machine.clock()
    told = clock.now()
    for number, (what, seconds, load) in enumerate(events):
        if number == faulty_from:
            machine.fault = "untrue"
        if what == "step":
            machine.pass_time(seconds, load)
        else:
            reference = seconds
            clock.calibrate()
        for _ in range(2):
            now = clock.now()
            assert math.isfinite(now)
            assert now >= told
            told = now
        found = clock.figures()
        assert found["attended_share"] is None or 0 <= found["attended_share"] <= 1 + 1e-9


def test_where_the_accounts_fail_it_goes_on_as_the_wall_clock_and_says_so() -> None:
    machine = Machine()
    clock = machine.clock()
    attended = machine.train(clock, LONG, HALVED)
    machine.fault = "the kernel's account goes backwards"
    before = clock.now()
    machine.pass_time(50.0, HALVED)
    assert clock.now() - before == pytest.approx(50.0, abs=2 * STEP_SECONDS)
    found = clock.figures()
    assert (found["clock"], found["clock_fault"]) == (WALL, machine.fault)
    assert found["attended_share"] == pytest.approx(attended / LONG, abs=0.02), "of the time that was accounted for"
    assert not clock.is_due()
    references = machine.references
    clock.calibrate()
    assert machine.references == references
    machine.fault = None
    before = clock.now()
    machine.pass_time(50.0, HALVED)
    assert clock.now() - before == pytest.approx(50.0), "what was untrue once is not believed again"


def test_it_runs_again_and_again_on_a_state_that_stays_sound() -> None:
    program = Reference()
    assert all(program.run() > 0 for _ in range(20))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(program._state))


@pytest.mark.skipif(not (PROC / "self" / "schedstat").exists(), reason="this kernel keeps no accounts of threads")
def test_what_other_python_threads_compute_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program, stop, go_on = Reference(), threading.Event(), threading.Event()
    program.warm_up()

    def compute(seconds: float) -> None:
        data, begin = bytes(1 << 20), time.thread_time()
        while time.thread_time() - begin < seconds:
            zlib.compress(data, 1)

    def work() -> None:
        compute(0.3)
        go_on.set()
        stop.wait()
        compute(0.2)
        go_on.set()
        end.wait()

    end, thread = threading.Event(), threading.Thread(target=work)
    thread.start()
    go_on.wait()
    go_on.clear()
    step = program._step

    def slow_step(*arguments: object) -> object:
        stop.set()
        go_on.wait()
        return step(*arguments)

    monkeypatch.setattr(program, "_step", slow_step)
    seconds = program.run()
    end.set()
    thread.join()
    assert 0 < seconds < 0.19


class Background:
    """A process whose other threads compute a share of the time while this one sleeps, by the number of the sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: Callable[[int], float]) -> None:
        self.now = self.computed = 10.0
        self.sleeps = 0
        self._share = share
        monkeypatch.setattr(reference, "time", self)

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.computed

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.computed += self._share(self.sleeps) * seconds
        self.sleeps += 1


def test_work_in_the_background_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    background = Background(monkeypatch, lambda sleeps: 0.3 if sleeps < 7 else 0.0)
    assert wait_for_rest()
    assert background.sleeps == 8, "until it has rested once"
    background = Background(monkeypatch, lambda sleeps: 2.0)
    begin = background.now
    assert not wait_for_rest()
    assert background.now - begin == pytest.approx(LONGEST_WAIT_SECONDS, abs=0.01)
