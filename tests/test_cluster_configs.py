"""The files for SkyPilot and Slurm: fields and options that these know, and what a job of Slurm does with signals."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
SKYPILOT = sorted((ROOT / "configs" / "skypilot").glob("*.yaml"))
SLURM = sorted((ROOT / "configs" / "slurm").glob("*.sbatch"))


def only(required: tuple[str, ...], **properties: object) -> dict[str, Any]:
    """The schema of a mapping with these keys and no other."""
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


STRING, POSITIVE = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}
# The part of SkyPilot's own schema (0.14, sky/utils/schemas.py) that our files use, and stricter
TASK = only(
    ("name", "resources", "workdir", "setup", "run"),
    name={"type": "string", "pattern": "^[a-z][a-z0-9-]*$"},
    workdir=STRING,
    setup=STRING,
    run=STRING,
    envs={
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": {"type": ["string", "null"]},
    },
    resources=only(
        ("accelerators",),
        accelerators={"type": "string", "pattern": r"^([A-Z0-9]+:[0-9]+|tpu-v[a-z0-9]+-[0-9]+)$"},
        accelerator_args=only((), runtime_version=STRING),
        use_spot={"type": "boolean"},
        disk_size=POSITIVE,
    ),
    file_mounts={"type": "object", "additionalProperties": only(("name",), name=STRING, mode={"enum": ["MOUNT"]})},
)
# Options of sbatch(1), 22.05, as our files write them
TIME, MEMORY, COUNT = r"\d+:\d\d:\d\d", r"\d+[KMGT]?", r"[1-9]\d*"
SBATCH = {
    "job-name": r"[\w-]+",
    "nodes": COUNT,
    "ntasks": COUNT,
    "ntasks-per-node": COUNT,
    "cpus-per-task": COUNT,
    "mem": MEMORY,
    "gres": r"gpu(:\w+)?:[1-9]\d*",
    "exclusive": "",
    "time": TIME,
    "signal": r"B:[A-Z0-9]+@\d+",
    "requeue": "",
    "open-mode": "append|truncate",
    "output": r"\S+",
}


def words_exist(text: str) -> None:
    """Every file of the repository that a command names is there."""
    for name in re.findall(r"(?:\./|=)((?:scripts|configs)/[\w./-]+)", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", SKYPILOT, ids=lambda path: path.stem)
def test_skypilot_knows_every_field(path: Path) -> None:
    text = path.read_text()
    task = yaml.safe_load(text)
    jsonschema.validate(task, TASK)
    used = set(re.findall(r"\$\{?([A-Z]+)", task["run"] + str(task["file_mounts"])))
    assert used == set(task["envs"])
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    words_exist(text)
    assert "not run on a cloud" in text


@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.stem)
def test_slurm_knows_every_option_and_sees_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    comments, _, commands = text.partition("\n\n")
    assert comments.startswith("#!/bin/bash\n")
    assert "#SBATCH" not in commands, "Slurm stops to look at the first command"
    options = re.findall(r"^#SBATCH --([\w-]+)(?:=(.+))?$", comments, re.MULTILINE)
    assert len(options) == comments.count("\n#SBATCH")
    for name, value in options:
        assert re.fullmatch(SBATCH[name], value), f"--{name}={value}"
    assert dict(options)["signal"] == "B:USR1@120", "what slurm_night.sh waits for"
    words_exist(text)
    assert "ot run on" in comments


def test_a_job_is_queued_again_when_its_time_is_up_and_not_when_it_is_cancelled(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    files = {
        "scripts/slurm_night.sh": (ROOT / "scripts" / "slurm_night.sh").read_text(),
        "scripts/saved_run.sh": "#!/bin/sh\ntrap 'echo ended; exit 3' TERM\necho \"$@\"\ntouch begun\n"
        "while :; do sleep 0.02; done\n",
        "scontrol": '#!/bin/sh\necho scontrol "$@"\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    said = {}
    for number in (signal.SIGUSR1, signal.SIGTERM):
        process = subprocess.Popen(
            [tmp_path / "scripts" / "slurm_night.sh", "--", "--tag=a b"],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
            stdout=subprocess.PIPE,
            text=True,
        )
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        (tmp_path / "begun").unlink()
        process.send_signal(number)
        said[number] = process.communicate(timeout=60)[0].splitlines()
        assert process.returncode == 3
    assert said[signal.SIGUSR1] == ["-- --tag=a b", "ended", "scontrol requeue 7"]
    assert said[signal.SIGTERM] == ["-- --tag=a b", "ended"]
