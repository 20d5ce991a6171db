"""The process that shuts itself in and then starts a program: run in a child, by a bare interpreter.

`tatara.rl.sandbox.launch` starts it with nothing but a socket and a request. It imports little, and nothing of Tatara,
so that it starts in milliseconds: not even ``socket`` or ``signal``, which would cost more than all the rest.

There are three processes: this one makes the namespaces and waits; its child is the first process of the new PID
namespace, builds the view of the file system and gives up every privilege; its child in turn becomes the program. When
the first process of a PID namespace ends, the kernel kills all others of it, so nothing survives the program, however
it detached itself. When the launcher dies, each process here follows it.

On the socket go ``map`` (this process asks for its user ids), ``start`` (all is shut, may the program run?),
``end STATUS SECONDS`` (the wait status and the CPU time of the program) and ``error WHAT: WHY``.
"""

import ctypes
import errno
import marshal
import os
import resource
import sys

USER = 1000
"""User and group of the program, inside."""
NOBODY = 65534
WORK = "/tmp"
"""The program's own directory, the only one that it can write to."""

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET, _CLONE_NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000
_SEPARATE = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWCGROUP
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
# The same number on every architecture.
_SYS_MOUNT_SETATTR = 442
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_SIGINT, _SIGKILL, _DEFAULT, _IGNORE = 2, 9, 0, 1
_CAPABILITY_VERSION = 0x20080522
_DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)
_Request = dict  # What `tatara.rl.sandbox.launch` writes; values of many types.


class _SetupError(Exception):
    """One step did not work; the message is for the user."""


def main() -> None:
    """Read the request and run it; the exit status says nothing, the socket all."""
    request: _Request = marshal.loads(sys.stdin.buffer.read())
    control = request["control"]
    os.set_inheritable(control, False)
    try:
        _die_with_parent()
        if os.getppid() != request["parent"]:
            return
        own_user = _separate(control)
        inside = os.fork()
        if inside == 0:
            _first_process(request, control, NOBODY if own_user else USER)
            os._exit(0)
        os.waitpid(inside, 0)
    except _SetupError as error:
        _tell(control, f"error {error}")
    except OSError as error:
        _tell(control, f"error {error.filename or 'start'}: {error.strerror}")


def _separate(control: int) -> bool:
    """Enter new namespaces; True where there is no user namespace and the real user has to be given up instead."""
    if os.geteuid() == 0:
        # Not possible any more in a user namespace, nor where we are in one already.
        try:  # noqa: SIM105  (contextlib would have to be imported)
            os.setgroups([])
        except PermissionError:
            pass
    if _libc.unshare(_CLONE_NEWUSER | _SEPARATE) == 0:
        _die_with_parent()
        _ask(control, "map")
        return False
    code = ctypes.get_errno()
    # Without user namespaces root can still make all others, and become nobody.
    if os.geteuid() == 0 and _libc.unshare(_SEPARATE) == 0:
        return True
    raise _SetupError(f"namespaces: {os.strerror(code)}")


def _first_process(request: _Request, control: int, user: int) -> None:
    try:
        # The only one that the program could end it with.
        _libc.signal(_SIGINT, ctypes.c_void_p(_IGNORE))
        given = _build_view(request, user)
        os.dup2(given, 0)
        os.close(given)
        # What must not be known inside; the network namespace has no interface but a loopback that is down.
        _check(_libc.sethostname(b"sandbox", 7), "host name")
        _give_up_privileges(user)
        _die_with_parent()
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        _install_filter(request["filter"])
        _ask(control, "start")
        program = os.fork()
        if program == 0:
            _become(request)
    except _SetupError as error:
        return _tell(control, f"error {error}")
    except OSError as error:
        return _tell(control, f"error {error.filename or 'set-up'}: {error.strerror}")
    while True:
        # Orphans come here too.
        process, status, usage = os.wait4(-1, 0)
        if process == program:
            return _tell(control, f"end {status} {usage.ru_utime + usage.ru_stime:.3f}")


def _build_view(request: _Request, user: int) -> int:
    """Replace the root directory by one that holds only what the request names; returns the standard input."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE, None)
    room = len(request["stdin"]) + (1 << 20)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=755,nr_inodes=4096,size={room}")
    os.mkdir("/tmp/outside")
    _check(_libc.pivot_root(b"/tmp", b"/tmp/outside"), "pivot_root")
    os.chdir("/")
    for path, target in request["links"]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    for path in request["binds"]:
        _bind(path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    for name in _DEVICES:
        _bind(f"/dev/{name}", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NOEXEC)
    os.symlink(WORK, "/dev/shm")
    _check(_libc.umount2(b"/outside", _MNT_DETACH), "unmounting the outer file system")
    os.rmdir("/outside")
    with open("/stdin", "wb") as file:
        file.write(request["stdin"])
    given = os.open("/stdin", os.O_RDONLY)
    os.unlink("/stdin")
    os.makedirs(WORK, exist_ok=True)
    _set_attributes("/", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=False)
    room = request["file_bytes"] + sum(map(len, request["files"].values())) + (64 << 10)
    options = f"mode=700,uid={user},gid={user},nr_inodes=1024,size={room}"
    _mount("tmpfs", WORK, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    os.chdir(WORK)
    for name, content in request["files"].items():
        _write(name, content, user)
    return given


def _write(name: str, content: bytes, user: int) -> None:
    parent = ""
    for part in name.split("/")[:-1]:
        parent = f"{parent}{part}/"
        if not os.path.isdir(parent):
            os.mkdir(parent)
            os.chown(parent, user, user)
    with open(name, "wb") as file:
        file.write(content)
    os.chown(name, user, user)


def _bind(path: str, attributes: int) -> None:
    outside = f"/outside{path}"
    if os.path.isdir(outside):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(outside, path, None, _MS_BIND | _MS_REC, None)
    _set_attributes(path, attributes, recursive=True)


def _set_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    # struct mount_attr: set, clear, propagation, user namespace.
    record = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    outcome = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, record, ctypes.sizeof(record))
    _check(outcome, f"making {path} read-only")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    code = _libc.mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3])
    _check(code, f"mounting {target}")


def _give_up_privileges(user: int) -> None:
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if ctypes.get_errno() != errno.EINVAL:  # EINVAL: beyond the last one.
        _check(-1, "dropping capabilities")
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "dropping capabilities")


def _install_filter(instructions: bytes) -> None:
    buffer = ctypes.create_string_buffer(instructions, len(instructions))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    program = Program(len(instructions) // 8, ctypes.addressof(buffer))
    code = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    _check(code, "the filter of system calls")


def _become(request: _Request) -> None:
    """Turn into the program; never returns."""
    try:
        os.setsid()
        _libc.signal(_SIGINT, ctypes.c_void_p(_DEFAULT))
        for name, pair in request["limits"].items():
            resource.setrlimit(getattr(resource, name), pair)
        os.execve(request["command"][0], request["command"], request["environment"])
    except OSError as error:
        os.write(2, f"the sandbox cannot start {request['command'][0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _die_with_parent() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "following the launcher")


def _ask(control: int, question: str) -> None:
    """Say something and wait until the launcher agrees; end where it has gone."""
    _tell(control, question)
    if os.read(control, 1) != b"y":
        os._exit(0)


def _tell(control: int, message: str) -> None:
    try:
        os.write(control, f"{message}\n".encode())
    except OSError:
        os._exit(0)  # Nobody is left to hear it.


def _check(code: int, what: str) -> None:
    if code != 0:
        raise _SetupError(f"{what}: {os.strerror(ctypes.get_errno())}")
