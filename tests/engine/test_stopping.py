"""A run ends with its stopping list, or with a signal."""

import os
import signal
import subprocess
import sys

import pytest

from autoresearch_jax.engine.stopping import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_waits_for_what_may_be_cut_short(number):
    handler = signal.signal(number, signal.default_int_handler)  # under `nohup` SIGHUP is ignored
    try:
        _check_a_signal(number)
    finally:
        signal.signal(number, handler)


def _check_a_signal(number):
    before = signal.getsignal(number)
    with Interrupts().installed() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "a second Ctrl-C has its usual effect"
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            pytest.fail("nothing more is begun")
    assert signal.getsignal(number) is before


SIGNALLED = """
import os, signal, sys, time
from autoresearch_jax.engine import stopping
stopping.ECHO_SECONDS = float(sys.argv[1])
with stopping.Interrupts().installed() as found:
    for name in sys.argv[2:]:
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.05)
    print("went on" if found.requested else "nothing came")
"""


@pytest.mark.parametrize(
    ("echo_seconds", "names", "status"),
    [
        (10.0, ["SIGHUP", "SIGTERM", "SIGHUP"], 0),
        (0.0, ["SIGTERM", "SIGTERM"], -signal.SIGTERM),
        (10.0, ["SIGINT", "SIGINT"], -signal.SIGINT),
    ],
)
def test_a_second_signal_ends_at_once_but_an_echo_does_not(echo_seconds, names, status):
    words = [sys.executable, "-c", SIGNALLED, str(echo_seconds), *names]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == status
    assert result.stdout == ("went on\n" if status == 0 else "")


def test_a_second_ctrl_c_ends_the_first_process_of_a_container_too():
    words = ["unshare", "--pid", "--fork", sys.executable, "-c", SIGNALLED, "10", "SIGINT", "SIGINT"]
    result = subprocess.run(words, capture_output=True, text=True)
    if "unshare" in result.stderr:
        pytest.skip(f"no namespace of processes: {result.stderr.strip()}")
    assert (result.returncode, result.stdout) == (128 + signal.SIGINT, "")


def test_a_signal_inside_raises_at_once():
    def work(interrupts):
        with interrupts.allowed():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on after the signal")

    with Interrupts().installed() as interrupts, pytest.raises(KeyboardInterrupt):
        work(interrupts)


def test_a_terminal_that_goes_away_ends_nothing_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts().installed() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.requested
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupts.requested
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
