import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tatara
from tatara.errors import DataError
from tatara.rl.sandbox import Limits, available, run

PATIENT = Limits(wall_seconds=60.0, cpu_seconds=30.0)
SHORT = Limits(wall_seconds=0.4)
PLATFORM = str(Path(tatara.__file__).parents[1])


def test_a_program_reads_writes_and_ends() -> None:
    code = "import sys\nprint(sys.stdin.read().upper())\nprint('é', file=sys.stderr)"
    outcome = run(code, stdin="ab\ncé", limits=PATIENT)
    assert (outcome.status, outcome.exit_code) == ("ok", 0)
    assert (outcome.stdout, outcome.stderr) == ("AB\nCÉ\n", "é\n")
    assert outcome.seconds > 0


def test_files_beside_it_are_read_and_imported() -> None:
    files = {"solution.py": b"def f(x):\n    return x + 1\n", "data/deep/n.txt": b"41"}
    code = "import solution\nprint(solution.f(int(open('data/deep/n.txt').read())), __name__, __file__)"
    assert run(code, files=files, limits=PATIENT).stdout == "42 __main__ /tmp/main.py\n"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "main.py", "a\0b"])
def test_files_stay_within_the_directory(name: str) -> None:
    with pytest.raises(DataError, match="relative path"):
        run("pass", files={name: b""})


def test_an_exception_is_an_error_with_its_traceback() -> None:
    outcome = run("def f():\n    raise ValueError('no')\nf()", limits=PATIENT)
    assert (outcome.status, outcome.exit_code) == ("error", 1)
    assert 'main.py", line 2, in f' in outcome.stderr
    assert outcome.stderr.endswith("ValueError: no\n")
    assert run("import sys; sys.exit(3)", limits=PATIENT).exit_code == 3
    assert run("f(", limits=PATIENT).stderr.endswith("SyntaxError: '(' was never closed\n")


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(600)", "import os\nos.fork()\nwhile True: pass",
     "import signal, time\nfor n in {*range(1, 32)} - {9, 19}:\n    signal.signal(n, signal.SIG_IGN)\ntime.sleep(600)"],
    ids=["loop", "sleep", "two-loops", "ignores-signals"],
)  # fmt: skip
def test_what_does_not_end_is_ended(code: str) -> None:
    outcome = run(code, limits=SHORT)
    assert (outcome.status, outcome.exit_code) == ("timeout", None)
    assert outcome.seconds >= 0.4


def test_cpu_time_is_a_timeout_even_if_the_signal_is_ignored() -> None:
    limits = Limits(cpu_seconds=0.2, wall_seconds=60.0)
    # Without the second's grace that a program has to react.
    code = """
import signal, resource
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
while True: pass
"""
    outcome = run(code, limits=limits)
    assert (outcome.status, outcome.exit_code) == ("timeout", -signal.SIGKILL)


def test_memory_of_one_process_and_of_all() -> None:
    limits = Limits(memory_bytes=96 << 20, wall_seconds=60.0, cpu_seconds=30.0)
    one = run("x = bytearray(1 << 30)", limits=limits)
    assert (one.status, one.exit_code) == ("memory", 1)
    code = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        x = b"x" * (40 << 20)
        time.sleep(600)
time.sleep(600)
"""
    every = run(code, limits=limits)
    assert (every.status, every.exit_code) == ("memory", None)


def test_endless_output_is_cut_and_ended() -> None:
    limits = Limits(output_bytes=5000, wall_seconds=60.0)
    outcome = run("while True: print('x' * 100)", limits=limits)
    assert outcome.status == "killed"
    assert len(outcome.stdout) == 5000


def test_a_crash_names_its_signal() -> None:
    outcome = run("import ctypes; ctypes.string_at(0)", limits=PATIENT)
    assert (outcome.status, outcome.exit_code) == ("killed", -signal.SIGSEGV)


def test_installed_packages_are_there_when_asked_for() -> None:
    code = "import yaml; print(yaml.safe_load('a: 1'))"
    assert run(code, limits=PATIENT, packages=True).stdout == "{'a': 1}\n"
    assert "No module named 'yaml'" in run(code, limits=PATIENT).stderr


def test_an_event_loop_and_threads_work() -> None:
    code = """
import asyncio, threading
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
print(asyncio.run(asyncio.sleep(0, "loop")))
"""
    assert run(code, limits=PATIENT).stdout == "thread\nloop\n"


def test_runs_beside_each_other_do_not_meet() -> None:
    found: dict[int, str] = {}

    def one(number: int) -> None:
        code = f"import os\nopen('own', 'w').write('{number}')\nprint(os.listdir('.'), open('own').read())"
        found[number] = run(code, limits=PATIENT).stdout

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: text.split()[-1] for number, text in found.items()} == {number: str(number) for number in range(4)}


def test_nothing_is_left_open() -> None:
    run("pass", limits=PATIENT)
    before = set(os.listdir("/proc/self/fd"))
    run("print(1)", limits=PATIENT)
    run("while True: pass", limits=SHORT)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_program_follows_a_killed_launcher(tmp_path: Path) -> None:
    seconds = f"{2000 + os.getpid()}.75"
    program = f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep({seconds})'])"
    caller = f"""
import sys
sys.path.insert(0, {PLATFORM!r})
from tatara.rl.sandbox import run, Limits
run({program!r}, limits=Limits(wall_seconds=600))
"""
    launcher = subprocess.Popen([sys.executable, "-c", caller])

    def alive() -> bool:
        commands = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                commands.append((directory / "cmdline").read_bytes().split(b"\0"))
            except OSError:
                continue
        return any(f"import time; time.sleep({seconds})".encode() in command for command in commands)

    def wait_for(expected: bool) -> bool:
        deadline = time.monotonic() + 60
        while alive() is not expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return alive()

    try:
        assert wait_for(True)
    finally:
        launcher.kill()
        launcher.wait()
    assert wait_for(False) is False


def test_a_machine_that_cannot_isolate_runs_nothing(tmp_path: Path) -> None:
    # Our own filter refuses `unshare` and `mount` to the process that would make the sandbox.
    code = f"""
import ctypes, platform, sys
sys.path.insert(0, {PLATFORM!r})
from tatara.errors import EngineError
from tatara.rl.sandbox import available, jail, run
from tatara.rl.sandbox.seccomp import filter_program
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
jail._install_filter(filter_program(platform.machine()))
try:
    run("open('{tmp_path}/ran', 'w')")
except EngineError as error:
    print(error)
    print(available() == str(error))
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    message, same = finished.stdout.splitlines()
    assert message.startswith("this machine cannot isolate code (namespaces: Operation not permitted): allow user ")
    assert same == "True"
    assert not (tmp_path / "ran").exists()


def test_it_says_that_it_works_here() -> None:
    assert available() is None
