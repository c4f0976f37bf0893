"""The watching process: runs one command, keeps all that it starts within limits, and leaves no process of it behind.

It stands between the driver and what the driver starts. `main()` reads an order, one JSON object, from standard input
and answers with one on standard output; what the command prints goes to standard error, where the driver has put the
log. The order has `argv`, `environment`, `cwd`, `driver` (its pid), `limits` (at least `wall_seconds` and `log_bytes`),
`blanks` (texts that are replaced in the log), and `confine`, null for a command of the user's own: `namespaces` (of its
own), `keep_capabilities` (a mask, null to drop none), `fixed_addresses` (alike each time), `landlock` (arguments of
`restrict_files`, null for none), `filter_descriptor` (where bubblewrap reads the filter of system calls, null to
install it) and, where it may be a service on a local socket, `local_sockets`, and where it is stopped at times,
`stays_stopped`. It may have `scratch`, the folder whose
size is limited, if that is not `cwd`, and `streams`: two descriptors for the command's input and output, which then
does not go to the log.

`main([descriptor, *argv])` runs a worker instead, which has this process's standard input, output and error as they
are. What it gives up is read from the descriptor, a JSON object or null: `keep_capabilities` and `landlock` as above,
and `network`: null for none, "loopback" for none but a loopback of its own where that can be had, "host" for this
machine's. The worker is killed, with all that it started, when its input is closed, which the driver's end does however
it comes about, or by SIGTERM. This process then ends as the worker did: with its exit status, or by the same signal.

Starts quickly: few imports, none from outside the standard library. If this process itself is killed, the kernel kills
the command, though without a namespace not what the command started.
"""

import contextlib
import json
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from autoresearch_jax.sandbox import linux
from autoresearch_jax.sandbox.priority import (
    Priority,
    SessionsBehind,
    hand_on_session,
    is_in_background,
    lower_own_session,
    seconds_waited,
)
from autoresearch_jax.sandbox.process_tree import (
    MAX_FOLDER_DEPTH,
    MAX_PATH_CHARACTERS,
    Breach,
    Log,
    Output,
    ProcessTree,
    Stat,
    share_of_own,
    threads_of_user,
    unnamed_files,
    walk,
    write_all,
    write_log,
)

POLL_SECONDS = 0.025
SESSIONS_SECONDS = 0.2  # between two looks for sessions that a command of the user's own has opened
# Of a confined command's time, as much as it may have waited for a processor: its limit is one of what remains.
WAITED_SHARE = 0.9
NICENESS = 10  # of the confined, where we cannot have a priority of our own
CPU_GRACE_SECONDS = 5  # after which the kernel ends a process that we did not
LOOPBACK = "loopback"
_INPUT, _OUTPUT = 0, 1
NOT_CONFINED = "-"  # in place of a descriptor
# By Python, and by `_take_orders_to_stop`: what is ignored stays so in the program that a process becomes.
_IGNORED = (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


class Watch:
    """Watches a command and all that it starts."""

    def __init__(
        self, order: dict[str, Any], pid: int, output: int, orders_to_stop: list[int], *, in_background: bool
    ) -> None:
        self._limits: dict[str, float] = order["limits"]
        self._is_confined = order["confine"] is not None
        self._driver: int = order["driver"]
        self._folder: str = order.get("scratch", order["cwd"])
        self._tree = ProcessTree(pid)
        self._log = Log(order["limits"]["log_bytes"], order["blanks"], is_cut_at_limit=not self._is_confined)
        self._output = Output(output, self._log.take)
        self._started = time.monotonic()
        self._peak_memory = 0
        self._behind = SessionsBehind() if in_background else None
        self._looked_at_sessions = -math.inf
        self._waited = 0.0  # for a processor
        self._orders_to_stop = orders_to_stop

    def run(self) -> dict[str, Any]:
        """Waits for the command's end, or kills it once a limit is broken; returns the answer."""
        breach, status = None, None
        try:
            while self._tree.status is None and not self._orders_to_stop and os.getppid() == self._driver:
                self._check()
                self._output.pass_on(POLL_SECONDS)
                self._tree.reap()
        except Breach as error:
            breach = error
        finally:
            status = self._tree.status
            left = self._tree.end()
        try:
            self._output.pass_on(0.0)
            self._log.finish()
            if self._is_confined:
                self._check_disk({})
        except Breach as error:
            breach = breach or error
        return {
            "status": None if status is None else os.waitstatus_to_exitcode(status),
            "breach": None if breach is None else {"limit": breach.limit, "words": str(breach)},
            "seconds": time.monotonic() - self._started,
            "peak_memory_bytes": self._peak_memory,
            "last_line": self._log.last_line(),
            "left": left,
        }

    def _check(self) -> None:
        limits = self._limits
        seconds = time.monotonic() - self._started
        if not self._is_confined:
            if seconds > limits["wall_seconds"]:
                raise Breach("wall_seconds", f"ran longer than {limits['wall_seconds']:g} s")
            if self._behind is not None and seconds - self._looked_at_sessions > SESSIONS_SECONDS:
                self._looked_at_sessions = seconds
                self._behind.lower((pid, stat.session) for pid, stat in self._tree.stats().items())
            return
        stats = self._tree.stats()
        if self._behind is not None:
            self._behind.lower((pid, stat.session) for pid, stat in stats.items())
        self._waited = max([self._waited, *map(seconds_waited, stats)])
        if seconds - min(self._waited, seconds * WAITED_SHARE) > limits["wall_seconds"]:
            raise Breach("wall_seconds", f"ran longer than {limits['wall_seconds']:g} s")
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
        for num_files, (path, depth) in enumerate(walk(self._folder), start=1):
            if num_files > limits["scratch_files"]:
                raise Breach("scratch_files", f"made more than {limits['scratch_files']:g} files")
            if depth > MAX_FOLDER_DEPTH or len(path) > MAX_PATH_CHARACTERS:
                raise Breach("scratch_files", f"made more than {MAX_FOLDER_DEPTH} folders in one another")
            with contextlib.suppress(OSError):  # gone meanwhile
                num_bytes += os.lstat(path).st_blocks * 512
        num_bytes += sum(unnamed_files(stats).values())
        if num_bytes > limits["scratch_bytes"]:
            raise Breach("scratch_bytes", f"wrote more than {limits['scratch_bytes'] / 2**20:.0f} MiB")


def _become(
    order: Mapping[str, Any], output: int | None = None, priority: Priority | None = None, parent: int | None = None
) -> NoReturn:
    """In a child: gives up what the order says and becomes its command.

    `output` is a pipe for all that it prints, and nothing to read; None for a worker, which has this process's own.
    `parent` must still be its parent; None where its number is not known in this namespace.
    """
    confine = order["confine"]
    try:
        if output is not None:
            read_from, write_to = order.get("streams") or (os.open(os.devnull, os.O_RDWR), output)
            for target, source in ((0, read_from), (1, write_to), (2, output)):
                os.dup2(source, target)
        for number in (signal.SIGTERM, *_IGNORED):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(order["cwd"])
        if output is None and confine is not None and confine["network"] == LOOPBACK:
            linux.enter_loopback_namespace()
        if linux.IS_LINUX:  # after a new namespace, with which the kernel forgets our wish
            linux.die_with_parent(signal.SIGKILL)
        if output is None and confine is not None:
            _give_up(confine)
        elif confine is not None:
            _confine(order["limits"], confine, priority)
        if parent in (None, os.getppid()):  # else it was killed before the kernel knew of our wish
            os.execvpe(order["argv"][0], order["argv"], order["environment"])
    except OSError as error:
        write_log(f"{order['argv'][0]}: cannot be run: {error}\n".encode())
    finally:
        os._exit(126)


def _confine(limits: dict[str, Any], confine: Mapping[str, Any], priority: Priority | None) -> None:
    _set_limits(limits)
    if priority is None:
        os.nice(NICENESS)
    else:
        priority.take()
    if linux.IS_LINUX and confine["fixed_addresses"]:
        with contextlib.suppress(OSError):  # a container may forbid it
            linux.fix_addresses()
    _give_up(confine, descriptor=confine["filter_descriptor"])


def _give_up(confine: Mapping[str, Any], *, descriptor: int | None = None) -> None:
    if linux.IS_LINUX:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # short of memory, the kernel takes this one first
    if linux.IS_LINUX and confine["keep_capabilities"] is not None:
        linux.forbid_new_privileges()
        linux.drop_capabilities(confine["keep_capabilities"])
    if confine["landlock"] is not None:
        linux.restrict_files(**confine["landlock"])
    allowed = {name: bool(confine.get(name)) for name in ("network", "local_sockets", "stays_stopped")}
    _filter_system_calls(descriptor, linux.filter_program(**allowed) if linux.IS_LINUX else None)


def _filter_system_calls(descriptor: int | None, program: bytes | None) -> None:
    """Installs the filter, or offers it to bubblewrap, which itself needs the calls that it forbids."""
    if program is None:
        return
    if descriptor is None:
        with contextlib.suppress(OSError):  # a kernel without it
            linux.install_filter(program)
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
        _lower(resource.RLIMIT_NPROC, int(limits["threads"]) + threads_of_user())


def _lower(which: int, value: int) -> None:
    """Sets a limit, soft and hard, that may already be lower."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _lead_namespace(order: dict[str, Any], output: int, priority: Priority | None) -> NoReturn:
    """First process of the namespace: waits for the command, whose end is the end of all others in it."""
    linux.die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    command = os.fork()
    if command == 0:
        os.setsid()
        _become(order, output, priority)
    while True:
        pid, status = os.wait()
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)  # as a shell and bubblewrap tell it


def _take_priority() -> Priority | None:
    """Gives this process, and no child of it, real-time priority; returns the one before, None if it may not."""
    try:
        before = Priority.of_this_process()
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):  # not root; not Linux
        return None
    return before


def _carry_out(order: dict[str, Any]) -> dict[str, Any]:
    """Runs the order's command to its end; returns the answer."""
    confine = order["confine"]
    in_background = is_in_background()
    in_namespaces = confine is not None and confine["namespaces"] and linux.enter_namespaces()
    priority = None if confine is None else _take_priority()
    orders_to_stop = _take_orders_to_stop()
    read_end, write_end = os.pipe()
    for stream in order.get("streams", ()):
        os.set_inheritable(stream, False)
    watcher, pid = os.getpid(), os.fork()
    if pid == 0:
        os.setsid()
        if in_background:
            lower_own_session()  # those that it opens: see `Watch`
        if in_namespaces:
            _lead_namespace(order, write_end, priority)
        _become(order, write_end, priority, watcher)
    for descriptor in (write_end, *order.get("streams", ())):
        os.close(descriptor)
    watch = Watch(order, pid, read_end, orders_to_stop, in_background=in_background)
    return {**watch.run(), "namespaces": in_namespaces}


def _keep_worker(confine: Mapping[str, Any] | None, argv: list[str]) -> NoReturn:
    """Runs a worker, and ends as it does."""
    orders_to_stop = _take_orders_to_stop()
    wake_up = _wake_up_descriptor()
    watcher, pid = os.getpid(), os.fork()
    if pid == 0:
        os.setsid()
        lower_own_session() if is_in_background() else hand_on_session()
        _become({"argv": argv, "environment": dict(os.environ), "cwd": ".", "confine": confine}, parent=watcher)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _OUTPUT)  # else the driver would not see that the worker has closed it
    tree = ProcessTree(pid)
    _wait(tree, wake_up, orders_to_stop)
    left = tree.end()
    if left:
        write_log(f"{left} processes of the worker cannot be killed\n".encode())
    _end_as(tree.status)


def _wake_up_descriptor() -> int:
    """A descriptor that can be read once a child has ended or this process is told to end."""
    signal.signal(signal.SIGCHLD, lambda number, _: None)  # one that is not handled wakes nobody
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end


def _wait(tree: ProcessTree, wake_up: int, orders_to_stop: Sequence[int]) -> None:
    """Returns when the worker has ended or is to be ended."""
    poll = select.poll()
    poll.register(wake_up, select.POLLIN)
    poll.register(_INPUT, select.POLLHUP)  # that nobody can write to it any more; what is written is for the worker
    while tree.status is None and not orders_to_stop:
        if any(descriptor == _INPUT for descriptor, _ in poll.poll()):
            return
        with contextlib.suppress(BlockingIOError):
            os.read(wake_up, select.PIPE_BUF)
        tree.reap()


def _end_as(status: int | None) -> NoReturn:
    """Ends this process as one with that status did; None for one that cannot be killed."""
    code = 1 if status is None else os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker has left one, if any was wanted
        with contextlib.suppress(OSError):  # SIGKILL is never handled
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _take_orders_to_stop() -> list[int]:
    """From here on each SIGTERM is added to the list that is returned, and SIGINT is ignored: it is for the driver."""
    orders: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: orders.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return orders


def main(worker: Sequence[str] = ()) -> None:
    """Runs a worker's command, or carries out the order on standard input.

    Before the command stands the number of a descriptor from which to read what the worker gives up, or NOT_CONFINED.
    """
    if linux.IS_LINUX:
        linux.become_subreaper()
    if worker:
        confine = None
        if worker[0] != NOT_CONFINED:
            with open(int(worker[0]), "rb") as file:
                confine = json.load(file)
        _keep_worker(confine, list(worker[1:]))
    answer = _carry_out(json.loads(sys.stdin.readline()))
    with contextlib.suppress(BrokenPipeError):  # the driver is gone
        write_all(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
