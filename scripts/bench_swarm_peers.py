"""Two peers with the real language model beside each other on this machine's CPU; called by bench_swarm.sh.

Each has a clone of the checkout and half of the cores; they share a bare repository, by polling. One moves constants,
the other tries shipped ideas, on the demo's model and dataset with its 6 s a run. Both are told to end after --minutes.

The last lines are `key: value`:
  experiments      of both
  adopted_across   experiments that tried a finding of the other
  adopted_kept     of these, those that were kept
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.swarm.membership import Settings, SwarmFolder

ROOT = Path(__file__).parent.parent
PEERS = {"alice": "constants", "bob": "ideas"}
ENDS_WITHIN = 300  # seconds


def make_peers(place: Path) -> None:
    """A remote, and for each peer a clone, a key and its settings."""
    run("git", "init", "-q", "--bare", str(place / "remote.git"))
    lines = []
    for name in PEERS:
        run("git", "clone", "-q", str(ROOT), str(place / name))
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / f"{name}.key"))
        lines.append(f"{name} {(place / f'{name}.key.pub').read_text()}")
    (place / "members").write_text("".join(lines))
    for name in PEERS:
        folder = SwarmFolder(place / name / "runs")
        folder.create()
        words = {"key": str(place / f"{name}.key"), "members": str(place / "members")}
        folder.write_settings(Settings(remote=f"file://{place}/remote.git", name=name, **words))


def start(place: Path, name: str, seed: int, cores: list[int]) -> subprocess.Popen[bytes]:
    """Begins a peer's run."""
    words = ["taskset", "--cpu-list", ",".join(map(str, cores)), "autoresearch", "run"]
    words += ["--flagfile=configs/demo.flags", f"--proposer={PEERS[name]}", "--swarm", "--tag=night"]
    words += [f"--seed={seed}", "--experiments=1000", "--program=program.md"]
    log = (place / f"{name}.log").open("wb")
    return subprocess.Popen(words, cwd=place / name, stdout=log, stderr=log, start_new_session=True)


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"machine: {platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)
    run("autoresearch", "prepare", "--flagfile=configs/demo.flags")
    place = Path(tempfile.mkdtemp(prefix="autoresearch-peers-"))
    try:
        make_peers(place)
        cores = sorted(os.sched_getaffinity(0))
        halves = [cores[: len(cores) // 2] or cores, cores[len(cores) // 2 :]]
        at_work = [start(place, name, args.seed + number, halves[number]) for number, name in enumerate(PEERS)]
        time.sleep(60 * args.minutes)
        for process in at_work:
            process.send_signal(signal.SIGINT)
        for process in at_work:
            process.wait(ENDS_WITHIN)
        report(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def report(place: Path) -> None:
    experiments = adopted = kept = 0
    for name in PEERS:
        for line in (place / f"{name}.log").read_text(errors="replace").splitlines():
            if "swarm" in line:
                print(f"  {name}: {line}")
        with closing(Ledger.open_to_read(RunFolder(place / name / "runs" / "night").ledger)) as ledger:
            rows = [row for row in ledger.experiments() if row.kind is Kind.PROPOSAL]
        for row in rows:
            of = "" if row.adopted_from is None else f" of {row.adopted_from}"
            print(
                f"{name:<6} {row.id:>3} {row.proposer}{of}: {row.decision or row.status} {row.score}: {row.hypothesis}"
            )
        across = [row for row in rows if row.adopted_from is not None]
        experiments, adopted = experiments + len(rows), adopted + len(across)
        kept += sum(row.decision == "keep" for row in across)
    print(f"experiments: {experiments}\nadopted_across: {adopted}\nadopted_kept: {kept}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
