"""Signals cut short what may be cut short, and wait for the rest."""

import os
import signal

import pytest

from autoresearch_jax.search.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_what_may_be_cut_short(number):
    before = signal.getsignal(number)
    with Interrupts().installed() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.requested
        assert signal.getsignal(number) is signal.SIG_DFL, "a second one has its usual effect"
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            pytest.fail("nothing more is begun")
    assert signal.getsignal(number) is before


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
