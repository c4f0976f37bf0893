"""`autoresearch doctor`, section clock."""

import time
from collections.abc import Callable

from autoresearch_jax.commands.checks import clock
from autoresearch_jax.commands.checks.check import Check


def test_clocks_that_cannot_be_believed() -> None:
    def checks(**clocks: Callable[[], float]) -> dict[str, Check]:
        return {check.name: check for check in clock.check_clock(**clocks)}

    assert all(check.is_ok for check in checks().values())
    for seconds, says in ((0.0, "1970-01-01 00:00:00 UTC, which is long ago"), (1.74e9, "files of this package")):
        wrong = checks(wall=lambda seconds=seconds: seconds)["clock"]  # type: ignore[misc]
        assert not wrong.is_ok
        assert says in wrong.outcome
        assert wrong.remedy is not None
        assert "turn on NTP" in wrong.remedy
    for clocks in (
        {"monotonic": lambda: 5.0},
        {"wall": lambda: time.time() + time.monotonic()},  # twice as fast
    ):
        assert not checks(**clocks)["monotonic_clock"].is_ok
    jumps = iter([*[0.0] * 5, *[3600.0] * 1000])
    assert checks(wall=lambda: time.time() + next(jumps))["monotonic_clock"].is_ok, "the date was set just now"
