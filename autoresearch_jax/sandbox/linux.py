"""What Linux offers a process to give up its powers: prctl, capabilities, namespaces, Landlock, seccomp.

https://docs.kernel.org/userspace-api/landlock.html, https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterable
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
_ADDR_NO_RANDOMIZE = 0x0040000
_CAPABILITY_VERSION_3 = 0x20080522
_NUM_CAPABILITIES = 64  # that the version's two words can hold
READ_AND_WRITE_ANYTHING = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
LOCK_MEMORY = 1 << 14  # CAP_IPC_LOCK, for memory that a device reads and writes

# Landlock's calls, the same on every architecture that came after them, x86-64 and AArch64 among them.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # the others are a folder's
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_MAKE_SPECIAL = 1 << 6 | 0b1111 << 9  # devices, sockets, pipes, symbolic links
_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights on files each version knows
_NETWORK_ABI, _TCP_BIND_AND_CONNECT = 4, 0b11
SCOPE_ABI, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 0b11

# Names of architectures for the kernel's audit, and numbers of system calls: of x86-64, of AArch64.
_MACHINES = ("x86_64", "aarch64")
_ARCHITECTURES = (0xC000003E, 0xC00000B7)
_CLONE = (56, 220)
_CLONE3 = 435
_DENIED = {
    "socket": (41, 198),  # no network of any kind, nor a service of this machine behind a local socket
    "shmget": (29, 194),  # shared memory, which no process's memory limit counts
    "msgget": (68, 186),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "unshare": (272, 97),  # in a namespace of its own it could mount, a tmpfs for one
    "setns": (308, 268),
    "mount": (165, 40),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),  # from here on interfaces of the kernel with a history of holes
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
}
# open_tree, move_mount, fsopen, fsconfig, fsmount, fspick; io_uring_setup, _enter, _register; mount_setattr
_DENIED_EVERYWHERE = (428, 429, 430, 431, 432, 433, 425, 426, 427, 442)
_NEW_NAMESPACES = 0x7E020000  # the flags of clone
# By which a stopped process has the kernel send it SIGCONT: a timer, or a descriptor with a signal of its choice. And
# leases, which make others wait until the stopped process gives them up.
_TIMER_CREATE, _FCNTL = (222, 107), (72, 25)
_SET_SIGNAL, _SET_LEASE = 10, 1024  # F_SETSIG, F_SETLEASE
# Where there must be a network: IPv4, IPv6, netlink (which lists interfaces), and datagrams between local processes.
_NETWORK_FAMILIES = (2, 10, 16)  # AF_INET, AF_INET6, AF_NETLINK
_LOCAL_FAMILY, _DATAGRAM = 1, 2  # AF_UNIX, SOCK_DGRAM
_SOCKET_TYPE = 0xF  # without the flags that come with it
_SET_INTERFACE_FLAGS, _UP = 0x8914, 1  # ioctl SIOCSIFFLAGS, IFF_UP
_FIRST_X32_CALL = 0x40000000

# Where bubblewrap reads the filter.
FILTER_DESCRIPTOR = 3

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AND = 0x54
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in what the filter looks at
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000

IS_LINUX = sys.platform == "linux"


def die_with_parent(signal_number: int) -> None:
    """Has the kernel send this process a signal when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def become_subreaper() -> None:
    """Makes this process the parent of every descendant that loses its own."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """From here on no program that is executed gives more rights than its caller has."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def fix_addresses() -> None:
    """Has the kernel load the programs that this process becomes to the same addresses each time.

    Raises:
      OSError: it is not allowed here.
    """
    _call("personality", ctypes.c_ulong(_ADDR_NO_RANDOMIZE))


def drop_capabilities(keep: int = 0) -> None:
    """Gives up root's capabilities for good, except those in the mask `keep`.

    A process without them may not look into one that has them, not even as the same user.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the first 32 capabilities, then of the others
    _call("capget", header, sets)
    for capability in range(_NUM_CAPABILITIES):
        if not keep >> capability & 1:
            with contextlib.suppress(OSError):  # not allowed to a process that has none; or no such capability
                _prctl(_PR_CAPBSET_DROP, capability)
    kept = keep & sets[1]
    _call("capset", header, (ctypes.c_uint32 * 6)(kept, kept))


def enter_namespaces() -> bool:
    """Gives the children of this process, and their children, process ids and IPC of their own and no network.

    When the first child ends, the kernel kills all others. Returns False, with nothing changed, where the kernel
    does not let us.
    """
    try:
        _call("unshare", _NAMESPACES)
    except OSError:
        return _do_if_a_child_can(lambda: _unshare_as_user(_NAMESPACES))
    return True


def enter_loopback_namespace() -> bool:
    """Leaves this process, and all it starts, no network but a loopback of its own.

    Returns False, with nothing changed, where the kernel does not let us.
    """
    return _do_if_a_child_can(_enter_loopback_namespace)


def _enter_loopback_namespace() -> None:
    import socket  # takes milliseconds, and most have no use for it

    try:
        _call("unshare", _CLONE_NEWNET)
    except OSError:
        _unshare_as_user(_CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_INTERFACE_FLAGS, struct.pack("16sH22x", b"lo", _UP))


def _unshare_as_user(namespaces: int) -> None:
    """Enters namespaces within a new user namespace, where this process keeps its user and group.

    Raises:
      OSError: not allowed here. Some kernels refuse only after the first step, which leaves a process without a user.
    """
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _CLONE_NEWUSER | namespaces)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _do_if_a_child_can(action: Callable[[], None]) -> bool:
    """Does what cannot be undone if a forked child succeeds with it; returns whether it did."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        return False
    action()
    return True


def landlock_abi() -> int:
    """Version of Landlock that the kernel offers; 0 for none."""
    if not IS_LINUX:
        return 0
    try:
        return _system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    except OSError:
        return 0


def restrict_files(
    readable: Iterable[str], writable: Iterable[str], *, network: bool = False, plain: bool = False
) -> None:
    """Denies this thread and all it starts, for good, every file but these, TCP, and signals to others.

    Older kernels cannot deny truncation (before version 3), TCP (4), device controls (5), signals and abstract sockets
    (6).

    Args:
      readable: files and folders that may be read and executed, with all that is in them.
      writable: files and folders that may be changed too.
      network: leaves TCP.
      plain: denies to make anything but files and folders: what follows a link goes where it leads.

    Raises:
      OSError: the kernel has no Landlock.
    """
    abi = landlock_abi()
    handled = (1 << _RIGHTS_BY_ABI.get(abi, 16)) - 1
    denied_network = 0 if network else _TCP_BIND_AND_CONNECT
    attributes = struct.pack("QQQ", handled, denied_network, _ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 24 if abi >= SCOPE_ABI else 16 if abi >= _NETWORK_ABI else 8
    ruleset = _system_call(_CREATE_RULESET, ctypes.c_char_p(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    changes = handled & ~_MAKE_SPECIAL if plain else handled
    for paths, rights in ((readable, _READ), (writable, changes)):
        for path in paths:
            _allow(ruleset, path, rights & handled)
    forbid_new_privileges()
    _system_call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # a dangling link, no folder on the way, or out of our own reach
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FILE_RIGHTS
        rule = ctypes.c_char_p(struct.pack("=Qi", rights, descriptor))
        _system_call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def filter_program(*, network: bool = False, local_sockets: bool = False, stays_stopped: bool = False) -> bytes | None:
    """The filter as the kernel takes it; None for a machine whose numbers of system calls are not known here.

    Args:
      network: leaves sockets of IP, but none that reach a local service by a file.
      local_sockets: leaves these alone, and shared memory, without which no PostgreSQL starts.
      stays_stopped: denies that by which a stopped process goes on by itself, or has others wait for it.
    """
    if os.uname().machine not in _MACHINES:
        return None
    machine = _MACHINES.index(os.uname().machine)
    not_permitted, not_there = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, _ARCHITECTURES[machine], if_so=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        *_when(_JUMP_GREATER_EQUAL, _FIRST_X32_CALL, not_there),
        *_when(_JUMP_EQUAL, _CLONE3, not_there),  # the C library takes clone then, whose flags can be looked at
    ]
    denied = {name: numbers[machine] for name, numbers in _DENIED.items()}
    if local_sockets:
        program += _leave_local_sockets(denied.pop("socket"), not_permitted)
        del denied["shmget"]
    elif network:
        program += _leave_network(denied["socket"], not_permitted)
    if stays_stopped:
        denied["timer_create"] = _TIMER_CREATE[machine]
        program += _deny_stopped(_FCNTL[machine], not_permitted)
    for number in (*denied.values(), *_DENIED_EVERYWHERE):
        program += _when(_JUMP_EQUAL, number, not_permitted)
    program += [
        _instruction(_JUMP_EQUAL, _CLONE[machine], if_so=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        *_when(_JUMP_ANY_BIT, _NEW_NAMESPACES, not_permitted),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def _leave_network(call: int, result: int) -> list[bytes]:
    """Decides on the call `socket`, and leaves the others' number loaded."""
    decision = [
        _instruction(_LOAD, _FIRST_ARGUMENT),
        *(one for family in _NETWORK_FAMILIES for one in _when(_JUMP_EQUAL, family, _ALLOW)),
        *[_instruction(_JUMP_EQUAL, _LOCAL_FAMILY, if_so=1), _instruction(_RETURN, result)],
        _instruction(_LOAD, _SECOND_ARGUMENT),
        _instruction(_AND, _SOCKET_TYPE),
        *_when(_JUMP_EQUAL, _DATAGRAM, _ALLOW),
        _instruction(_RETURN, result),
    ]
    return [_instruction(_JUMP_EQUAL, call, if_not=len(decision)), *decision]


def _leave_local_sockets(call: int, result: int) -> list[bytes]:
    """As `_leave_network`, for sockets that reach a local service by a file."""
    decision = [
        _instruction(_LOAD, _FIRST_ARGUMENT),
        *_when(_JUMP_EQUAL, _LOCAL_FAMILY, _ALLOW),
        _instruction(_RETURN, result),
    ]
    return [_instruction(_JUMP_EQUAL, call, if_not=len(decision)), *decision]


def _deny_stopped(call: int, result: int) -> list[bytes]:
    """Decides on the call `fcntl`, and leaves the others' number loaded."""
    decision = [
        _instruction(_LOAD, _SECOND_ARGUMENT),
        *_when(_JUMP_EQUAL, _SET_SIGNAL, result),
        *_when(_JUMP_EQUAL, _SET_LEASE, result),
        _instruction(_RETURN, _ALLOW),
    ]
    return [_instruction(_JUMP_EQUAL, call, if_not=len(decision)), *decision]


def install_filter(program: bytes) -> None:
    """Puts the filter on this process and all that it starts, for good.

    Raises:
      OSError: the kernel has no such filters.
    """
    forbid_new_privileges()
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _call("prctl", _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.c_char_p(header))


def _call(name: str, *arguments: object) -> int:
    """Calls a function of the C library with objects of ctypes or None; raises OSError if it returned -1."""
    result = int(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def _system_call(number: int, *arguments: object) -> int:
    return _call("syscall", ctypes.c_long(number), *arguments)


def _when(jump: int, value: int, result: int) -> list[bytes]:
    return [_instruction(jump, value, if_not=1), _instruction(_RETURN, result)]


def _instruction(code: int, value: int, *, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_so, if_not, value)
