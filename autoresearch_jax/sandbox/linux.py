"""What Linux offers a process to give up its powers, through the calls that Python's own library lacks."""

import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_NAMESPACES = _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC
_CAPABILITY_VERSION_3 = 0x20080522
_LOWEST_PRIORITY = 19  # of nice values; a hundredth of the time beside a process of the usual one
_NUM_CAPABILITIES = 64  # that the version's two words can hold
READ_AND_WRITE_ANYTHING = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH

IS_LINUX = sys.platform == "linux"


def call(name: str, *arguments: object) -> int:
    """Calls a function of the C library.

    Raises:
      OSError: it returned -1.
    """
    result = int(getattr(_libc(), name)(*arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def system_call(number: int, *arguments: object) -> int:
    """Makes a system call by its number; the arguments are objects of ctypes or None.

    Raises:
      OSError: it failed.
    """
    return call("syscall", ctypes.c_long(number), *arguments)


def die_with_parent(signal_number: int) -> None:
    """Has the kernel send this process a signal when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def lower_priority_of_this_thread() -> None:
    """Gives way to everything else: for this thread and all that it starts from here on. Cannot be undone."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


def take_idle_time_only() -> None:
    """Leaves this thread, and all that it starts from here on, what no other process wants. Only root can undo it.

    More than the lowest nice value, which counts within a session alone where the kernel divides by sessions
    (`sched_autogroup_enabled`): what has a session of its own, as our processes do, would get an equal share.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # 0 is this thread


def become_subreaper() -> None:
    """Makes this process the parent of every descendant that loses its own."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """From here on no program that is executed gives more rights than its caller has."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_seccomp_filter(header: bytes) -> None:
    """Installs a filter of system calls.

    Args:
      header: a `struct sock_fprog`.

    Raises:
      OSError: the kernel does not take it.
    """
    call("prctl", _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.c_char_p(header))


def drop_capabilities(keep: int = 0) -> None:
    """Gives up the powers of root for good, but those in the mask `keep`.

    A process without them may not look into one that has them, not even as the same user.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the first 32 capabilities, then of the others
    call("capget", header, sets)
    for capability in range(_NUM_CAPABILITIES):
        if not keep >> capability & 1:
            with contextlib.suppress(OSError):  # not allowed to a process that has none; or no such capability
                _prctl(_PR_CAPBSET_DROP, capability)
    kept = keep & sets[1]
    call("capset", header, (ctypes.c_uint32 * 6)(kept, kept))


def enter_namespaces() -> bool:
    """Gives the children of this process, and their children, process ids and IPC of their own and no network.

    When the first child ends, the kernel kills all others. Returns False, with nothing changed, where the kernel
    does not let us.
    """
    uid, gid = os.getuid(), os.getgid()
    with contextlib.suppress(OSError):
        call("unshare", _NAMESPACES)
        return True
    with contextlib.suppress(OSError):
        call("unshare", _CLONE_NEWUSER | _NAMESPACES)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        return True
    return False


def _prctl(option: int, value: int) -> None:
    call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
