"""A filter of system calls: what no training file needs, and what would get around the other walls.

The kernel's description: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import struct

from autoresearch_jax.sandbox.linux import forbid_new_privileges, set_seccomp_filter

# Numbers of system calls, by architecture, and its name for the kernel's audit.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_DENIED = {
    "x86_64": {
        "socket": 41,  # no network of any kind, nor a service of this machine behind a local socket
        "shmget": 29,  # memory that belongs to no process, so is in nobody's account
        "msgget": 68,
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "unshare": 272,  # in a namespace of its own it could mount, a tmpfs for one
        "setns": 308,
        "mount": 165,
        "chroot": 161,
        "pivot_root": 155,
        "open_by_handle_at": 304,
        "add_key": 248,  # from here on interfaces of the kernel with a history of holes
        "request_key": 249,
        "keyctl": 250,
        "perf_event_open": 298,
        "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "socket": 198,
        "shmget": 194,
        "msgget": 186,
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "unshare": 97,
        "setns": 268,
        "mount": 40,
        "chroot": 51,
        "pivot_root": 41,
        "open_by_handle_at": 265,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "perf_event_open": 241,
        "bpf": 280,
        "userfaultfd": 282,
    },
}
# open_tree, move_mount, fsopen, fsconfig, fsmount, fspick; io_uring_setup, _enter, _register; mount_setattr
_DENIED_EVERYWHERE = (428, 429, 430, 431, 432, 433, 425, 426, 427, 442)
_NEW_NAMESPACES = 0x7E020000  # the flags of clone
_FIRST_X32_CALL = 0x40000000

# Where bubblewrap reads the filter.
FILTER_DESCRIPTOR = 3

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in what the filter looks at
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def filter_program() -> bytes | None:
    """The filter as the kernel takes it; None for a machine whose numbers of system calls are not known here."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        return None
    not_permitted, not_there = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, _ARCHITECTURES[machine], if_so=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        *_when(_JUMP_GREATER_EQUAL, _FIRST_X32_CALL, not_there),
        *_when(_JUMP_EQUAL, _CLONE3, not_there),  # the C library takes clone then, whose flags can be looked at
    ]
    for number in (*_DENIED[machine].values(), *_DENIED_EVERYWHERE):
        program += _when(_JUMP_EQUAL, number, not_permitted)
    program += [
        _instruction(_JUMP_EQUAL, _CLONE[machine], if_so=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        *_when(_JUMP_ANY_BIT, _NEW_NAMESPACES, not_permitted),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def install_filter(program: bytes) -> None:
    """Puts the filter on this process and all that it starts, for good.

    Raises:
      OSError: the kernel has no such filters.
    """
    forbid_new_privileges()
    buffer = ctypes.create_string_buffer(program, len(program))
    set_seccomp_filter(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))


def _when(jump: int, value: int, result: int) -> list[bytes]:
    return [_instruction(jump, value, if_not=1), _instruction(_RETURN, result)]


def _instruction(code: int, value: int, *, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_so, if_not, value)
