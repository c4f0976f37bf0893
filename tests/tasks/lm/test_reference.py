"""The reference program: it can be run again and again, and what else the process does is not counted as its time."""

import threading
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np
import pytest

from autoresearch_jax.tasks.lm import reference
from autoresearch_jax.tasks.lm.accounting import PROC
from autoresearch_jax.tasks.lm.reference import LONGEST_WAIT_SECONDS, Reference, wait_for_rest


def test_it_runs_again_and_again_on_a_state_that_stays_sound() -> None:
    program = Reference()
    assert all(program.run() > 0 for _ in range(100))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(program._state))


def test_its_time_is_the_mean_of_runs_after_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BASELINE_SECONDS", 1.0)
    program, runs = Reference(), iter([9.0] * reference.WARM_UP_RUNS + [0.5, 0.25, 0.75, 9.0])
    monkeypatch.setattr(program, "run", lambda: next(runs))
    assert program.measure() == 0.5


@pytest.mark.skipif(not (PROC / "self" / "schedstat").exists(), reason="this kernel keeps no accounts of threads")
@pytest.mark.parametrize("ends_meanwhile", [True, False])
def test_what_other_python_threads_compute_is_none_of_it(ends_meanwhile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one ends, whose account is gone then."""
    program, stop, go_on = Reference(), threading.Event(), threading.Event()
    program.warm_up()

    def compute(seconds: float) -> None:
        data, begin = bytes(1 << 20), time.thread_time()
        while time.thread_time() - begin < seconds:
            zlib.compress(data, 1)

    def work() -> None:
        compute(1.0)
        go_on.set()
        stop.wait()
        compute(0.2)
        go_on.set()
        if not ends_meanwhile:
            end.wait()

    end, thread = threading.Event(), threading.Thread(target=work)
    thread.start()
    go_on.wait()
    go_on.clear()
    step = program._step

    def slow_step(*arguments: object) -> object:
        stop.set()
        go_on.wait()
        if ends_meanwhile:
            thread.join()
        return step(*arguments)

    monkeypatch.setattr(program, "_step", slow_step)
    seconds = program.run()
    end.set()
    thread.join()
    assert 0 < seconds < (0.5 if ends_meanwhile else 0.19)


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


@pytest.mark.parametrize("share", [0.3, 1.0, 2.0])
def test_work_in_the_background_is_waited_for(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    background = Background(monkeypatch, lambda sleeps: share if sleeps < 7 else 0.0)
    assert wait_for_rest()
    assert background.sleeps == 8, "until it has rested once"


def test_a_process_that_rests_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    background = Background(monkeypatch, lambda sleeps: 0.01)
    assert wait_for_rest()
    assert background.sleeps == 1


def test_work_without_an_end_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    background = Background(monkeypatch, lambda sleeps: 2.0)
    begin = background.now
    assert not wait_for_rest()
    assert background.now - begin == pytest.approx(LONGEST_WAIT_SECONDS, abs=0.01)
