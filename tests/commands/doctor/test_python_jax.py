"""`autoresearch doctor`, sections python and jax."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from doctor_calls import ROOT, Doctor, lines

from autoresearch_jax.commands.checks.python import check_python, what_lacks


def without(packages: set[str], tmp_path: Path) -> dict[str, str]:
    """Variables for a Python that has the packages of this one, except for some."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if entry.name.split("-")[0] not in packages:
            (site / entry.name).symlink_to(entry)
    return {**os.environ, "PYTHONPATH": f"{site}:{ROOT}"}


@pytest.mark.parametrize(("package", "sections"), [("flatbuffers", ["--sections=python"]), ("numpy", ["--platform=x"])])
def test_a_missing_package_is_named(package: str, sections: list[str], tmp_path: Path) -> None:
    """Also one without which not even the flags of a run are known."""
    call = [sys.executable, "-S", "-m", "autoresearch_jax.cli", "doctor"]
    environment = without({package}, tmp_path)
    result = subprocess.run([*call, *sections], env=environment, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert result.stderr == ""
    found = lines(result.stdout)
    assert found["packages"].startswith(f"{package} is not installed; in the checkout: rm -f .venv/.installed-* && ./")
    assert "packages" in found["faults"]


def test_a_package_that_is_too_old_or_half_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert what_lacks("numpy>=2.0") is None
    assert what_lacks("numpy>=99") is not None
    assert str(what_lacks("numpy>=99")).endswith(" is not >=99")
    metadata = tmp_path / "half_gone-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: half-gone\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert what_lacks("half-gone>=1.0") == "half-gone 1.0 is recorded, and its files are gone"
    assert what_lacks("half-gone>=2") == "half-gone 1.0 is not >=2"


@pytest.mark.parametrize(("version", "is_ok", "helps"), [((3, 10, 1), False, "3.11"), ((3, 11, 2), True, "3.12")])
def test_an_old_python_is_told(version: tuple[int, ...], is_ok: bool, helps: str) -> None:
    check = next(iter(check_python(version)))
    assert check.is_ok is is_ok
    assert check.remedy is not None
    assert f"with CPython {helps} or newer" in check.remedy


def test_variables_that_steer_jax_are_named(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # JAX sets it in the process that loads it
    monkeypatch.setenv("XLA_FLAGS", "--xla_private")
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    status, found = doctor("jax")
    assert (status, found["jax_variables"].split(";")[0]) == (0, "XLA_FLAGS, JAX_PLATFORMS (not heeded: flags say it)")
    assert "--xla_private" not in str(found)
