"""Runs one command confined, keeps all it starts within limits, and leaves nothing of it behind.

A process of its own between the driver and what the driver does not trust. It reads one JSON object, what
`sandbox.py` calls the order, from its standard input, and answers with one on its standard output. What the command
prints goes, up to a limit, to its standard error. Starts quickly: few imports, none from outside the standard library.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from autoresearch_jax.sandbox import landlock, linux, seccomp
from autoresearch_jax.sandbox.family import Family, Output, attach, take_orders_to_stop, write_log
from autoresearch_jax.sandbox.tree import Stat, share_of_own, unnamed_files

POLL_SECONDS = 0.025
NICENESS = 10  # of the confined, where we cannot have a priority of our own
CPU_GRACE_SECONDS = 5  # after which the kernel ends a process that we did not
MAX_FOLDER_DEPTH = 64
MAX_PATH_CHARACTERS = 3000  # the kernel's own limit is 4096


class Breach(Exception):
    """A limit is broken.

    Attributes:
      limit: its name among the order's limits.
    """

    def __init__(self, limit: str, words: str) -> None:
        super().__init__(words)
        self.limit = limit


class Priority(NamedTuple):
    """What the driver's thread has, and the confined is to have; without more ado it would have the usual one."""

    policy: int
    niceness: int

    @classmethod
    def of_this_process(cls) -> "Priority":
        policy = os.sched_getscheduler(0)
        usual = policy not in (os.SCHED_BATCH, os.SCHED_IDLE)  # or one of those that nobody must give a candidate
        return cls(os.SCHED_OTHER if usual else policy, os.getpriority(os.PRIO_PROCESS, 0))

    def take(self) -> None:
        with contextlib.suppress(PermissionError):  # to be as important as the driver
            os.setpriority(os.PRIO_PROCESS, 0, self.niceness)
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, self.policy, os.sched_param(0))


class Watch:
    """Watches over the confined process and all that it starts."""

    def __init__(self, order: dict[str, Any], pid: int, output: int, orders_to_stop: list[int]) -> None:
        self._limits: dict[str, float] = order["limits"]
        self._driver: int = order["driver"]
        self._scratch: str = order["scratch"]
        self._family = Family(pid)
        self._output = Output(output, self._log)
        self._started = time.monotonic()
        self._log_bytes = 0
        self._peak_memory = 0
        self._orders_to_stop = orders_to_stop

    def run(self) -> dict[str, Any]:
        """Waits for the end, brings it about if a limit is broken, and says what happened."""
        breach = None
        try:
            while self._family.status is None and not self._orders_to_stop and os.getppid() == self._driver:
                self._check()
                self._output.pass_on(POLL_SECONDS)
                self._family.reap()
        except Breach as error:
            breach = error
        finally:
            left = self._family.end()
        try:
            self._output.pass_on(0.0)
            self._check_disk({})
        except Breach as error:
            breach = breach or error
        status = self._family.status
        return {
            "status": None if status is None else os.waitstatus_to_exitcode(status),
            "breach": None if breach is None else {"limit": breach.limit, "words": str(breach)},
            "seconds": time.monotonic() - self._started,
            "peak_memory_bytes": self._peak_memory,
            "left": left,
        }

    def _check(self) -> None:
        limits = self._limits
        seconds = time.monotonic() - self._started
        if seconds > limits["wall_seconds"]:
            raise Breach("wall_seconds", f"ran longer than {limits['wall_seconds']:g} s")
        stats = self._family.tree.stats()
        if len(stats) > limits["processes"]:
            raise Breach("processes", f"started more than {limits['processes']:g} processes")
        if sum(stat.threads for stat in stats.values()) > limits["threads"]:
            raise Breach("threads", f"started more than {limits['threads']:g} threads")
        resident = {pid: stat.resident_bytes for pid, stat in stats.items()}
        memory = sum(resident.values())
        if memory > limits["memory_bytes"] and len(stats) > 1:  # what they share has been counted for each
            memory = int(memory * share_of_own(resident))
        self._peak_memory = max(self._peak_memory, memory)
        if memory > limits["memory_bytes"]:
            raise Breach("memory_bytes", f"used more than {limits['memory_bytes'] / 2**30:.1f} GiB of memory")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds = sum(stat.cpu_seconds for stat in stats.values()) + ended.ru_utime + ended.ru_stime
        if cpu_seconds > limits["cpu_seconds"]:
            raise Breach("cpu_seconds", f"used more than {limits['cpu_seconds']:g} s of CPU time")
        self._check_disk(stats)

    def _check_disk(self, stats: dict[int, Stat]) -> None:
        """Counts what lies in the scratch folder, and what is held open though it has no name any more."""
        limits = self._limits
        num_bytes = 0
        for num_files, (path, depth) in enumerate(_walk(self._scratch), start=1):
            if num_files > limits["scratch_files"]:
                raise Breach("scratch_files", f"made more than {limits['scratch_files']:g} files")
            if depth > MAX_FOLDER_DEPTH or len(path) > MAX_PATH_CHARACTERS:
                raise Breach("scratch_files", f"made more than {MAX_FOLDER_DEPTH} folders in one another")
            with contextlib.suppress(OSError):  # gone meanwhile
                num_bytes += os.lstat(path).st_blocks * 512
        num_bytes += sum(unnamed_files(stats).values())
        if num_bytes > limits["scratch_bytes"]:
            raise Breach("scratch_bytes", f"wrote more than {limits['scratch_bytes'] / 2**20:.0f} MiB")

    def _log(self, data: bytes) -> None:
        self._log_bytes += len(data)
        room = int(self._limits["log_bytes"]) - self._log_bytes
        write_log(data[: max(0, len(data) + min(room, 0))])
        if room < 0:
            raise Breach("log_bytes", f"printed more than {self._limits['log_bytes'] / 2**20:g} MiB")


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    """Everything in a folder, with how deep it lies.

    Raises:
      Breach: not everything can be seen.
    """
    folders = [(folder, 1)]
    while folders:
        path, depth = folders.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, depth + 1))
                    yield entry.path, depth
        except PermissionError as error:
            raise Breach("scratch_files", "made a folder that cannot be read") from error
        except OSError:  # gone meanwhile
            continue


def _become_confined(order: dict[str, Any], output: int, priority: Priority | None) -> NoReturn:
    """Gives up what the order says and becomes its command."""
    attach(output)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(order["scratch"])
        _set_limits(order["limits"])
        if priority is None:
            os.nice(NICENESS)
        else:
            priority.take()
        if linux.IS_LINUX:
            linux.die_with_parent(signal.SIGKILL)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")  # short of memory, the kernel takes this one first
        if order["drop_capabilities"]:
            linux.forbid_new_privileges()
            linux.drop_capabilities(order["keep_capabilities"])
        if order["landlock"] is not None:
            landlock.restrict(**order["landlock"])
        _filter_system_calls(order["filter_descriptor"])
        os.execve(order["argv"][0], order["argv"], order["environment"])
    except OSError as error:
        print(f"cannot confine the command: {error}", flush=True)
    os._exit(126)


def _filter_system_calls(descriptor: int | None) -> None:
    """Installs the filter, or offers it to bubblewrap, which itself needs the calls that it forbids."""
    program = seccomp.filter_program() if linux.IS_LINUX else None
    if program is None:
        return
    if descriptor is None:
        with contextlib.suppress(OSError):  # a kernel without it
            seccomp.install_filter(program)
        return
    source, sink = os.pipe()
    os.write(sink, program)
    os.close(sink)
    os.dup2(source, descriptor)
    os.set_inheritable(descriptor, True)


def _set_limits(limits: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_CPU, int(limits["cpu_seconds"]) + CPU_GRACE_SECONDS)
    _lower(resource.RLIMIT_FSIZE, int(limits["file_bytes"]))
    _lower(resource.RLIMIT_NOFILE, int(limits["open_files"]))
    _lower(resource.RLIMIT_AS, int(limits["address_bytes"]))
    if linux.IS_LINUX:
        _lower(resource.RLIMIT_NPROC, int(limits["threads"]) + _threads_of_user())


def _lower(which: int, value: int) -> None:
    """Sets a limit, soft and hard, that may already be lower."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _threads_of_user() -> int:
    """How many threads this user has already: the kernel's limit counts them all."""
    uid, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _lead_namespace(order: dict[str, Any], output: int, priority: Priority | None) -> NoReturn:
    """First process of the namespace: waits for the command, whose end is the end of all others in it."""
    linux.die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    command = os.fork()
    if command == 0:
        os.setsid()
        _become_confined(order, output, priority)
    while True:
        pid, status = os.wait()
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)  # as a shell and bubblewrap tell it


def _take_priority() -> Priority | None:
    """Lets this process, and no child of it, run at once however many others want to.

    Returns:
      Its priority from before; None if it may not have another.
    """
    try:
        before = Priority.of_this_process()
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):  # not root; not Linux
        return None
    return before


def main() -> int:
    """Carries out the order on standard input."""
    order = json.loads(sys.stdin.readline())
    if linux.IS_LINUX:
        linux.become_subreaper()
    in_namespaces = order["namespaces"] and linux.enter_namespaces()
    priority = _take_priority()
    orders_to_stop = take_orders_to_stop()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if in_namespaces:
            _lead_namespace(order, write_end, priority)
        _become_confined(order, write_end, priority)
    os.close(write_end)
    outcome = Watch(order, pid, read_end, orders_to_stop).run()
    print(json.dumps({**outcome, "namespaces": in_namespaces}), flush=True)
    return 0
