"""`autoresearch doctor`, section clock."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from doctor_calls import Doctor

from autoresearch_jax.commands import task_flags
from autoresearch_jax.commands.checks import clock
from autoresearch_jax.commands.checks.check import Check
from autoresearch_jax.tasks.lm.accounting import quota_cpus, try_accounting
from autoresearch_jax.tasks.lm.device import choose_platform

HAS_ACCOUNTS = Path("/proc/self/schedstat").exists()


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


def trial_clock(choice: str, platform: str, quota: float | None = None) -> dict[str, Check]:
    return {check.name: check for check in clock.check_trial_clock(choice, platform, lambda: quota)}


@pytest.mark.skipif(not HAS_ACCOUNTS, reason="the kernel keeps no account of threads")
def test_the_attended_clock_where_it_can_be_had() -> None:
    for choice in ("auto", "attended"):
        found = trial_clock(choice, "cpu")
        assert list(found) == ["trial_clock"]
        assert found["trial_clock"].is_ok
        assert found["trial_clock"].outcome.startswith("attended")
    assert trial_clock("wall", "cpu")["trial_clock"].outcome.startswith("wall")
    there = len(os.sched_getaffinity(0))
    assert "cpu_quota" not in trial_clock("auto", "cpu", float(there))
    quota = trial_clock("auto", "cpu", 0.5)["cpu_quota"]
    assert quota.is_ok
    assert f"0.5 of {there} " in quota.outcome
    assert "not excused" in str(quota.remedy)


def test_the_attended_clock_where_it_cannot_be_had(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_flags, "try_accounting", partial(try_accounting, tmp_path))
    status, found = doctor("clock", "--platform=cpu")
    assert (status, found["faults"]) == (0, "none")
    assert found["trial_clock"].startswith(f"wall: {tmp_path}/self/task: ")
    assert len(found["trial_clock"].split("; ")) == 2, "with what follows from it"
    status, found = doctor("clock", "--platform=cpu", "--clock=attended")
    assert (status, found["faults"]) == (1, "trial_clock")
    assert found["trial_clock"].endswith("; use --clock=wall")


def test_an_accelerator_is_timed_by_the_wall_clock() -> None:
    for platform in ("cuda", "tpu"):
        assert trial_clock("auto", platform)["trial_clock"].outcome.startswith("wall: ")
        refused = trial_clock("attended", platform)["trial_clock"]
        assert not refused.is_ok
        assert platform in refused.outcome
    assert choose_platform("auto") in ("cpu", "cuda", "tpu")


@pytest.mark.parametrize(
    ("group", "files", "cpus"),
    [
        ("0::/", {"cpu.stat": ""}, None),
        ("0::/a/b", {"cpu.stat": "", "a/cpu.stat": "", "a/b/cpu.stat": "", "a/b/cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/cpu.stat": "", "a/cpu.max": "150000 100000", "a/b/cpu.stat": "", "a/b/cpu.max": "3 1"}, 1.5),
        ("1:cpu:/", {"cpu/cpu.stat": "", "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/", {"cpu/cpu.stat": "", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_the_quota_of_a_container(group: str, files: dict[str, str], cpus: float | None, tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"{group}\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert quota_cpus(tmp_path / "proc", tmp_path / "groups") == cpus
