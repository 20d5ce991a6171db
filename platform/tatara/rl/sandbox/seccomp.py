"""Which system calls a sandboxed program may not make, as a filter that the kernel runs.

The namespaces already take away what these calls could reach; the filter takes away the calls themselves, and with
them the parts of the kernel in which most ways out of a sandbox were found. It names what is refused: what is allowed
depends on the C library, and a list of that breaks with the next one. A refused call fails with ``EPERM``.

The instructions are classic BPF over ``struct seccomp_data`` (Linux, Documentation/userspace-api/seccomp_filter.rst).
"""

import struct

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _ARGUMENT_0 = 0, 4, 16
_X32 = 0x40000000
_AF_UNIX = 1
_NAMESPACES = 0x7E020080
"""Every ``CLONE_NEW*`` flag of ``clone``."""

_REFUSED = {
    # Name: number on x86_64, on aarch64 (None where there is no such call). From the kernel's headers.
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "mknod": (133, None), "mknodat": (259, 33), "acct": (163, 89),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "unshare": (272, 97), "setns": (308, 268), "sethostname": (170, 161), "setdomainname": (171, 162),
    "capset": (126, 91), "personality": (135, 92), "vhangup": (153, 58), "syslog": (103, 116),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "lookup_dcookie": (212, 18),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "settimeofday": (164, 170), "adjtimex": (159, 171),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # Memory that no limit of the process counts.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "vmsplice": (278, 75),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKETPAIR = (56, 220), (435, 435), (53, 199)


def machines() -> tuple[str, ...]:
    """Architectures (``platform.machine()``) that have a filter."""
    return tuple(_AUDIT_ARCH)


def filter_program(machine: str) -> bytes:
    """The filter for an architecture: instructions of 8 bytes each.

    Args:
        machine: One of `machines`.
    """
    column = tuple(_AUDIT_ARCH).index(machine)
    program = [
        _load(_ARCHITECTURE),
        _step(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _result(_KILL),
        _load(_NUMBER),
    ]
    if machine == "x86_64":
        # The x32 calls have numbers of their own, which would pass by the list.
        program += [_step(_AT_LEAST, _X32, 0, 1), _result(_KILL)]
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            program += [_step(_EQUAL, number, 0, 1), _result(_ERRNO | _EPERM)]
    # Its flags lie in memory, where no filter sees them; the C library then takes `clone`.
    program += [_step(_EQUAL, _CLONE3[column], 0, 1), _result(_ERRNO | _ENOSYS)]
    # Threads and processes, but no namespaces.
    program += [_step(_EQUAL, _CLONE[column], 0, 4), _load(_ARGUMENT_0)]
    program += [_step(_ANY_BIT, _NAMESPACES, 0, 1), _result(_ERRNO | _EPERM), _result(_ALLOW)]
    # Pairs within the sandbox are what an event loop wakes itself with.
    program += [_step(_EQUAL, _SOCKETPAIR[column], 0, 3), _load(_ARGUMENT_0)]
    program += [_step(_EQUAL, _AF_UNIX, 1, 0), _result(_ERRNO | _EPERM)]
    return b"".join([*program, _result(_ALLOW)])


def _step(code: int, value: int, then: int, otherwise: int) -> bytes:
    """An instruction; ``then`` and ``otherwise`` are how many instructions are passed over."""
    return struct.pack("=HBBI", code, then, otherwise, value)


def _load(offset: int) -> bytes:
    return _step(_LOAD, offset, 0, 0)


def _result(value: int) -> bytes:
    return _step(_RETURN, value, 0, 0)
