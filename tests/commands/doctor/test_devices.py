"""`autoresearch doctor`, section devices."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from doctor_calls import Doctor


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_a_platform_that_is_not_there(doctor: Doctor, scratch: Path) -> None:
    status, found = doctor("devices", "--platform=cuda")
    assert (status, found["faults"]) == (1, "devices")
    assert re.match(r"--platform=cuda: [^(]*\([^()]*\);", found["devices"])
    assert "--platform=cpu goes without" in found["devices"]
    log = Path(found["devices"].split("the end of ")[1])
    assert "Traceback" in log.read_text()
    shutil.rmtree(log.parent)


def test_a_trial_process_that_does_not_start(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag_of_xla")
    status, found = doctor("devices", "--platform=cpu")
    assert (status, found["faults"]) == (1, "devices")
    assert found["devices"].startswith("no trial process starts: the worker process ")
    log = Path(found["devices"].split("the end of ")[1].split(";")[0])
    assert "no_such_flag_of_xla" in log.read_text()
    shutil.rmtree(log.parent)


def test_an_interrupt_leaves_no_process_and_no_file(doctor: Doctor, scratch: Path) -> None:
    call = [sys.executable, "-m", "autoresearch_jax.cli", "doctor", "--platform=cpu", "--sections=devices"]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(scratch.glob("*/worker.log")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "autoresearch doctor: interrupted\n"
    assert process.returncode == 130
