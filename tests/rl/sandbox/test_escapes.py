"""Attempts to get out of the sandbox; whether one failed is looked at from outside where it can be."""

import os
import socket
import struct
import subprocess
import textwrap
import time
from pathlib import Path

import pytest

from tatara.rl.sandbox import Limits, Outcome, run

PATIENT = Limits(wall_seconds=60.0, cpu_seconds=30.0)
"""For programs that end by themselves, on a machine that may be busy."""
TRIES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def refused(label, call):
    try:
        outcome = call()
    except OSError as error:
        print(label, "refused", error.errno)
    else:
        print(label, "WORKED", outcome)
def syscall(*arguments):
    outcome = libc.syscall(*arguments)
    if outcome < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return outcome
"""


def sandboxed(code: str, **options: object) -> Outcome:
    return run(textwrap.dedent(code), **{"limits": PATIENT, **options})  # type: ignore[arg-type]


def attempts(code: str) -> dict[str, str]:
    """Run tries and return what came of each: ``refused`` or ``WORKED``."""
    outcome = run(TRIES + textwrap.dedent(code), limits=PATIENT)
    assert outcome.status == "ok", outcome
    return {label: verdict for label, verdict, _ in map(str.split, outcome.stdout.splitlines())}


def test_no_network_not_even_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = attempts(
            f"""
            import socket
            refused("tcp", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
            refused("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port})))
            refused("unix", lambda: socket.socket(socket.AF_UNIX).connect("\\0abstract"))
            refused("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
            refused("name", lambda: socket.getaddrinfo("localhost", {port}))
            refused("internet-pair", lambda: socket.socketpair(socket.AF_INET))
            """
        )
        server.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert found == dict.fromkeys(("tcp", "udp", "unix", "netlink", "name", "internet-pair"), "refused")


def test_the_namespaces_hold_without_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    from tatara.rl.sandbox import launch

    # One instruction: everything is allowed.
    monkeypatch.setattr(launch, "filter_program", lambda machine: struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = attempts(
            f"""
            import socket
            refused("tcp", lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 2))
            refused("outside", lambda: socket.create_connection(("192.0.2.1", 80), 2))
            refused("chroot", lambda: os.chroot("/tmp"))
            refused("host", lambda: os.kill({os.getpid()}, 0))
            def call(outcome):
                if outcome != 0:
                    raise OSError(ctypes.get_errno(), "refused")
            refused("mount", lambda: call(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)))
            refused("remount", lambda: call(libc.mount(None, b"/usr/lib", None, 32 | 4096, None)))
            refused("reboot", lambda: call(libc.reboot(0)))
            refused("write", lambda: open("/usr/lib/planted", "w"))
            """
        )
    assert found == dict.fromkeys(
        ("tcp", "outside", "chroot", "host", "mount", "remount", "reboot", "write"), "refused"
    )


def test_system_calls_that_no_solution_needs() -> None:
    numbers = {
        "mount": (165, 40), "umount": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "ptrace": (101, 117),
        "unshare": (272, 97), "setns": (308, 268), "reboot": (169, 142), "keyctl": (250, 219), "bpf": (321, 280),
        "perf": (298, 241), "io_uring": (425, 425), "kexec": (246, 104), "module": (175, 105), "memfd": (319, 279),
        "read_memory": (310, 270), "handle": (304, 265), "userfaultfd": (323, 282), "open_tree": (428, 428),
    }  # fmt: skip
    column = 1 if os.uname().machine == "aarch64" else 0
    lines = [f"refused({name!r}, lambda: syscall({pair[column]}, 0, 0, 0, 0, 0, 0))" for name, pair in numbers.items()]
    assert attempts("\n".join(lines)) == dict.fromkeys(numbers, "refused")


def test_a_new_namespace_by_clone() -> None:
    clone = 220 if os.uname().machine == "aarch64" else 56
    found = attempts(f"refused('clone', lambda: syscall({clone}, 0x10000000 | 17, 0, 0, 0, 0))")
    assert found == {"clone": "refused"}


def test_nothing_but_its_own_directory_can_be_written(tmp_path: Path) -> None:
    there = ["/", "/usr/lib", "/dev", str(Path.cwd()), str(Path.home()), str(tmp_path), str(Path(__file__).parent)]
    found = attempts(
        f"""
        for number, place in enumerate({there!r}):
            refused(f"place{{number}}", lambda: open(place + "/planted", "w"))
        refused("library", lambda: open(os.__file__, "r+"))
        refused("remove", lambda: os.remove(os.__file__))
        refused("loader", lambda: os.rename("/usr/lib", "/usr/lib2"))
        refused("device", lambda: os.mknod("/tmp/memory", 0o600 | 0o020000, os.makedev(1, 1)))
        open("/tmp/own", "w").write("allowed")
        """
    )
    assert set(found.values()) == {"refused"}
    assert len(found) == len(there) + 4
    assert not any(Path(place, "planted").exists() for place in there)
    assert not Path("/tmp/own").exists()


def test_secrets_of_the_machine_and_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    paths = [
        str(secret), __file__, "/etc/shadow", "/etc/passwd", "/root/.ssh", "/home", "/var", "/run", "/sys", "/dev/mem",
        "/dev/kmsg", "/proc/self/environ", f"/proc/{os.getpid()}/environ", "/proc/1/root", "/outside", "/dev/vda",
    ]  # fmt: skip
    outcome = sandboxed(
        f"""
        import os
        print([path for path in {paths!r} if os.path.exists(path)])
        os.symlink({str(secret)!r}, "/tmp/link"); os.symlink("/tmp/../../../{secret}", "/tmp/up")
        print([name for name in ("link", "up") if os.path.exists(name)])
        print("hunter2" in str(os.environ), os.getuid() != 0, os.getgroups(), os.uname().nodename)
        """
    )
    assert outcome.stdout == "[]\n[]\nFalse True [] sandbox\n"


def test_other_processes_are_neither_seen_nor_reached() -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        found = attempts(
            f"""
            import signal
            refused("bystander", lambda: os.kill({bystander.pid}, signal.SIGKILL))
            refused("launcher", lambda: os.kill({os.getpid()}, signal.SIGKILL))
            refused("listing", lambda: os.listdir("/proc"))
            os.kill(1, signal.SIGKILL); os.kill(1, signal.SIGTERM); os.kill(1, signal.SIGINT)
            refused("alive", lambda: os.kill(99999, 0))
            """
        )
        assert found == dict.fromkeys(("bystander", "launcher", "listing", "alive"), "refused")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_privileges_do_not_come_back() -> None:
    found = attempts(
        """
        refused("setuid", lambda: os.setuid(0))
        refused("setgid", lambda: os.setgid(0))
        refused("groups", lambda: os.setgroups([0]))
        refused("nice", lambda: os.nice(-5))
        refused("chown", lambda: (open("/tmp/f", "w").close(), os.chown("/tmp/f", 0, 0)))
        import resource
        def more():
            try:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            except ValueError as error:
                raise OSError(1, "refused") from error
        refused("limits", more)
        """
    )
    assert found == dict.fromkeys(("setuid", "setgid", "groups", "nice", "chown", "limits"), "refused")


def test_nothing_that_it_writes_can_be_run_as_machine_code() -> None:
    outcome = sandboxed(
        """
        import glob, shutil, ctypes, os
        shutil.copy(sorted(glob.glob("/usr/lib/*/libm.so*") + glob.glob("/usr/lib64/libm.so*"))[0], "/tmp/planted.so")
        try:
            ctypes.CDLL("/tmp/planted.so")
        except OSError as error:
            print("refused")
        """
    )
    assert outcome.stdout == "refused\n", outcome


def test_a_huge_file_and_many_files_end_at_the_limit() -> None:
    limits = Limits(file_bytes=1 << 20, wall_seconds=60.0)
    outcome = sandboxed(
        """
        import os
        try:
            open("/tmp/large", "wb").write(bytes(3 << 20))
        except OSError as error:
            print("one", os.path.getsize("/tmp/large") <= 1 << 20)
        try:
            for number in range(99):
                open(f"/tmp/part{number}", "wb").write(bytes(1 << 19))
        except OSError:
            print("many", number < 4)
        try:
            for number in range(9999):
                open(f"/tmp/empty{number}", "wb").close()
        except OSError:
            print("names", number < 2000)
        """,
        limits=limits,
    )
    assert outcome.stdout == "one True\nmany True\nnames True\n", outcome


def test_a_fork_bomb_ends_at_the_limit_and_leaves_nobody() -> None:
    marker = f"sandbox-bomb-{os.getpid()}"
    outcome = sandboxed(
        f"""
        import os, time
        # {marker}
        made = 0
        try:
            while made < 1000:
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(600)
                made += 1
        except OSError:
            print("stopped", 4 <= made <= 8)
        """,
        limits=Limits(processes=8, wall_seconds=60.0),
    )
    assert outcome.stdout == "stopped True\n", outcome
    assert outcome.status == "ok"


def _alive(seconds: str) -> list[int]:
    """Processes of this machine that sleep for just so long."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"time.sleep({seconds})".encode() in b" ".join(words):
            found.append(int(directory.name))
    return found


def test_a_daemon_does_not_survive() -> None:
    seconds = f"{1000 + os.getpid()}.25"
    outcome = sandboxed(
        f"""
        import os, signal, sys
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep({seconds})"])
            os._exit(0)
        os.wait()
        print("left a daemon")
        """
    )
    assert outcome.stdout == "left a daemon\n", outcome
    # The kernel takes a moment to end it.
    for _ in range(200):
        if not _alive(seconds):
            break
        time.sleep(0.05)
    assert _alive(seconds) == []
