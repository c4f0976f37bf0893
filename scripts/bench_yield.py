"""Measures how far what works beside a trial yields to it; called by bench_yield.sh.

A stand-in for a trial keeps every core busy while each kind of work runs beside it, in turn. Each figure is the median,
over the rounds, of that work's part of the processor time that both got (wanted: at most 0.1):
  share_of_agent      four busy processes of an agent, two in sessions of their own
  share_of_trace      a busy process for each core, in the sandbox, as a trace that looks ahead
  share_of_standby    processes of a next trial that import, one after the other
  share_of_nice_only  as the agent, with nice 19 in one session and nothing else, to compare with
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from autoresearch_jax.sandbox.priority import divides_by_session, lower_priority_of_this_thread, take_idle_time_only
from autoresearch_jax.sandbox.process import (
    CommandStopped,
    JsonWorker,
    ProcessTimeoutError,
    bare_environment,
    run_command,
)
from autoresearch_jax.sandbox.process_tree import ProcessTree
from autoresearch_jax.sandbox.sandbox import ProcessLimits, Sandbox, SandboxError, open_sandbox
from autoresearch_jax.tasks.lm.cage import FileAccess
from autoresearch_jax.tasks.lm.device import STANDBY_WORKER, start_worker

ROUNDS = 5
WINDOW_SECONDS = 3.0
BEGIN_SECONDS = 1.0  # for what works beside to become busy
LONGEST_SECONDS = 600.0
READY_SECONDS = 120.0
POLL_SECONDS = 0.2
CORES = len(os.sched_getaffinity(0))
# Burns every core for as many seconds as it is told, and answers with the processor seconds that it got.
TRIAL = f"""
import json, os, sys, time
for line in sys.stdin:
    until = time.monotonic() + json.loads(line)["seconds"]
    pids = []
    for _ in range({CORES}):
        pids.append(os.fork())
        if pids[-1] == 0:
            while time.monotonic() < until: pass
            os._exit(0)
    used = [os.wait4(pid, 0)[2] for pid in pids]
    print(json.dumps({{"seconds": sum(usage.ru_utime + usage.ru_stime for usage in used)}}), flush=True)
"""
BUSY = f'{sys.executable} -c "while True: pass"'
AGENT = f"{BUSY} & {BUSY} & setsid {BUSY} & setsid {BUSY} & wait"
TRACE = f"import os\nfor _ in range({CORES - 1}): os.fork() or [0 for _ in iter(int, 1)]\nwhile True: pass"


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Has a thread work until the block is left."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    time.sleep(BEGIN_SECONDS)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def processor_seconds() -> float:
    """What all processes that this one has started got until now."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(stat.cpu_seconds for stat in ProcessTree(os.getpid()).stats().values())
    return running + ended.ru_utime + ended.ru_stime


def agent(folder: Path, stop: threading.Event) -> None:
    lower_priority_of_this_thread()
    log_path = folder / "agent.log"
    with suppress(CommandStopped):
        run_command(AGENT, cwd=folder, environment=os.environ, log_path=log_path, seconds=LONGEST_SECONDS, stop=stop)


def trace(sandbox: Sandbox, folder: Path, stop: threading.Event) -> None:
    take_idle_time_only()
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    limits = ProcessLimits(wall_seconds=LONGEST_SECONDS)
    with suppress(SandboxError):  # stopped
        sandbox.run_python(
            ["-c", TRACE],
            scratch=scratch,
            environment=os.environ,
            log_path=folder / "trace.log",
            limits=limits,
            stop=stop,
        )


def standby(folder: Path, stop: threading.Event) -> None:
    while not stop.is_set():
        with closing(
            start_worker(
                "cpu",
                1,
                folder / "standby.log",
                environment=os.environ,
                compile_cache_dir=None,
                module=STANDBY_WORKER,
                reach=FileAccess(),
            )
        ) as worker:
            while not stop.is_set():
                with suppress(ProcessTimeoutError):
                    worker.receive(POLL_SECONDS)  # "waiting"
                    break


def nice_only(folder: Path, stop: threading.Event) -> None:
    command = ["/bin/sh", "-c", f"trap 'kill 0' TERM; {BUSY} & {BUSY} & {BUSY} & {BUSY} & wait"]
    process = subprocess.Popen(["nice", "-n", "19", *command], cwd=folder, start_new_session=True)
    stop.wait()
    process.terminate()
    process.wait()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="autoresearch-") as name:
        folder = Path(name)
        sandbox = open_sandbox("auto", cache_dir=folder / "cache", environment=os.environ)
        kinds: dict[str, Callable[[threading.Event], None]] = {
            "agent": lambda stop: agent(folder, stop),
            "trace": lambda stop: trace(sandbox, folder, stop),
            "standby": lambda stop: standby(folder, stop),
            "nice_only": lambda stop: nice_only(folder, stop),
        }
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        trial = JsonWorker(
            [sys.executable, "-c", TRIAL],
            environment=bare_environment(os.environ),
            cwd=folder,
            log_path=folder / "trial.log",
        )
        with closing(trial):
            for _ in range(ROUNDS):
                for kind, work in kinds.items():
                    with beside(work):
                        before = processor_seconds()
                        trial.send({"seconds": WINDOW_SECONDS})
                        of_trial = trial.receive(READY_SECONDS)["seconds"]
                        of_both = processor_seconds() - before
                        found[kind].append(1 - of_trial / of_both)
    print(f"machine: {CORES} cores, Linux {platform.release()}, Python {platform.python_version()}")
    print(f"divides_by_session: {divides_by_session()}")
    print(f"sandbox: {sandbox.level}")
    for kind, shares in found.items():
        print(f"share_of_{kind}: {statistics.median(shares):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
