"""A run whose machine is lost goes on elsewhere: real runs of a small task, stand-ins for gcloud and a bucket."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_task import ASSET, edited, write_task
from gcs_server import BUCKET, GcsServer
from repositories import git

SCRIPTS = Path(__file__).parent.parent / "scripts"
NAMES = ("saved_run.sh", "saved_run.py", "background.sh", "tpu_vm.sh")
PAGE = """\
# Instructions

## Goal

Raise accuracy.

## You may change

| constant | values | note |
|---|---|---|
| `THRESHOLD` | 0 .. 100000 | of a text's length |

## You must not change

- Nothing else.

## Stop when

- 5000 experiments
"""
FLAGS = ("--task=command", "--task_file=task.toml", "--proposer=constants", "--tag=t", "--seed=1")
SETUP = f"""\
#!/bin/sh
mkdir -p .venv/bin && echo "$@" >> ../extras
for name in python autoresearch; do printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > .venv/bin/$name; done
chmod +x .venv/bin/*
"""
GCLOUD = """\
#!/bin/bash
# compute tpus KIND VERB ...: a slice of two hosts, each a folder; it is READY as soon as it was asked for
echo "$*" >> "$CLOUD/calls"
for word in "$@"; do
    case $word in
        --worker=all) hosts="0 1" ;;
        --worker=*) hosts=${word#*=} ;;
        --command=*) command=${word#*=} ;;
    esac
done
there() {
    [ -e "$CLOUD/resource" ] || { echo "ERROR: (gcloud) NOT_FOUND: Resource was not found" >&2; exit 1; }
}
case "$3 $4" in
    "queued-resources create") mkdir "$CLOUD/0" "$CLOUD/1" && echo ACTIVE > "$CLOUD/resource" ;;
    "queued-resources describe") there && cat "$CLOUD/resource" ;;
    "queued-resources delete") there && rm -rf "$CLOUD/resource" "$CLOUD/0" "$CLOUD/1" ;;
    "tpu-vm describe") there && echo READY ;;
    "tpu-vm scp") there && for host in $hosts; do cp "$5" "$CLOUD/$host/${6#*:}" || exit; done ;;
    "tpu-vm ssh") there && for host in $hosts; do
            (cd "$CLOUD/$host" && HOME=$PWD bash -c "$command") || exit
        done ;;
    *) exit 2 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a task whose asset is bad as it begins, and with the scripts."""
    folder = tmp_path / "check out"
    asset = edited(ASSET, ("THRESHOLD = 1 ", "THRESHOLD = 100000 "), ("len(text) >", "len(text) * 10000 >"))
    write_task(folder, classifier_dot_py=asset, val_dot_csv="a,0\n" * 20 + "bbbbbbbbb,1\n" * 20)
    (folder / "program.md").write_text(PAGE)
    (folder / "scripts").mkdir()
    for name in NAMES:
        shutil.copy(SCRIPTS / name, folder / "scripts" / name)
    (folder / "scripts" / "setup.sh").write_text(SETUP)
    (folder / "scripts" / "setup.sh").chmod(0o755)
    for words in ("init -q -b main", "add .", "commit -qm start"):
        git(folder, *words.split())
    return folder


def wait_for(condition: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    """Polls until it is true; the processes must not end before."""
    while not condition():
        assert all(process.poll() is None for process in processes), "it ended early"
        time.sleep(0.1)


def kill_all_in(folder: Path) -> None:
    """The power cut of a machine whose disk is a folder: kills what works there, until nothing is left."""
    found = True
    while found:
        found = False
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if Path(os.readlink(process / "cwd").removesuffix(" (deleted)")).is_relative_to(folder):
                    found = True
                    os.kill(int(process.name), signal.SIGKILL)


def saved_run(checkout: Path, store: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "scripts/saved_run.py", f"--store={store}", "--save_every=0.2", "--", *FLAGS, *more]
    return subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_run_goes_on_from_a_bucket_as_if_nothing_had_been_lost(checkout, tmp_path):
    lost, undisturbed = (shutil.copytree(checkout, tmp_path / name) for name in ("lost", "undisturbed"))
    with GcsServer().running() as bucket:
        store, index = f"gs://{BUCKET}/saved", "saved/t/saved.json"
        process = saved_run(lost, store)
        wait_for(lambda: (lost / "runs" / "t" / "logs" / "0002").exists(), process)
        removed = bucket.count("DELETE .*ledger-")
        wait_for(lambda: bucket.count("DELETE .*ledger-") >= removed + 2, process)
        process.kill()
        kill_all_in(lost)
        process.communicate()
        saved = json.loads(bucket.read(index))["progress"]["experiments"]
        end = f"--experiments={saved + 2}"
        assert "fetched" in saved_run(checkout, store, end).communicate()[1]
        assert sum("ledger-" in name or "refs-" in name for name in bucket.names()) == 2

        behind = saved_run(lost, store)  # its disk is there again
        assert "runs/t has" in behind.communicate()[1]
        assert behind.returncode == 1
        bucket.write(index, bucket.read(index).replace(b'"seed": 1,', b'"seed": 2,'))
        other = saved_run(checkout, store)
        assert "another run" in other.communicate()[1]
        assert other.returncode == 1
    assert saved_run(undisturbed, str(tmp_path / "store"), end).wait() == 0
    tables = [
        [line.split("\t")[1:] for line in (folder / "runs" / "t" / "results.tsv").read_text().splitlines()]
        for folder in (checkout, undisturbed)
    ]
    assert tables[0] == tables[1]
    kinds = ("refs/autoresearch", "refs/heads/autoresearch")
    refs = [git(folder, "for-each-ref", "--format=%(refname) %(subject)", *kinds) for folder in (checkout, undisturbed)]
    assert refs[0] == refs[1]
    assert len({row[2] for row in tables[0]}) == 3, "else nothing was kept, or nothing discarded"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux here")
def test_a_preempted_vm_is_made_anew_and_its_run_goes_on(checkout, tmp_path):
    cloud, store, commands = tmp_path / "cloud", tmp_path / "store", tmp_path / "commands"
    for folder in (cloud, commands):
        folder.mkdir()
    # no sudo: a systemd of this machine is not for tests
    for name, text in (("gcloud", GCLOUD), ("sudo", "#!/bin/sh\nexit 1\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    variables = {"PATH": f"{commands}:{os.environ['PATH']}", "CLOUD": str(cloud), "TMUX_TMPDIR": str(cloud)}
    environment = {**os.environ, **variables}
    environment.pop("TMUX", None)
    keys = tmp_path / "keys"
    keys.write_text("ANY_KEY=secret\n")

    def tpu_vm(action: str, *words: str) -> subprocess.Popen[str]:
        command = ["scripts/tpu_vm.sh", action, "night", *words]
        return subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)

    def saved() -> int:
        index = store / "t" / "saved.json"
        return json.loads(index.read_text())["progress"]["experiments"] if index.exists() else 0

    kind = ("--accelerator_type=v5litepod-8", "--runtime_version=x", "--spot", "--zone=z")
    where = (*kind, f"--store={store}", "--save_every=0.5", "--interval=1", "--delete", f"--env_file={keys}")
    keep = tpu_vm("keep", *where, "--", *FLAGS)
    try:
        wait_for(lambda: saved() >= 1, keep)
        assert tpu_vm("state").communicate()[0].split() == ["resource:", "ACTIVE", "vm:", "READY", "run:", "running"]
        before = saved()
        (cloud / "resource").write_text("SUSPENDED\n")
        (cloud / "0").rename(cloud / "gone")
        kill_all_in(cloud / "gone")
        wait_for(lambda: saved() > before, keep)
        assert "fetched" in (cloud / "0" / "autoresearch_jax" / "build" / "background" / "run" / "log").read_text()
        assert (cloud / "1" / ".autoresearch_env").stat().st_mode & 0o777 == 0o600
        assert tpu_vm("stop").communicate()[0].startswith("ended 0"), "then keep deletes the hosts"
        assert "ended:" in keep.communicate()[0], "the end of the run's log"
        assert keep.returncode == 0
    finally:
        keep.kill()
        kill_all_in(cloud)
        subprocess.run(["tmux", "kill-server"], env=environment, capture_output=True)
    calls = [" ".join(line.split()[2:4]) for line in (cloud / "calls").read_text().splitlines()]
    assert [call for call in calls if call.startswith("queued") and "describe" not in call] == [
        "queued-resources create",
        "queued-resources delete",
        "queued-resources create",
        "queued-resources delete",
    ]
