"""Reward functions that misbehave cost one value, never the worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tatara.errors import ConfigError, TataraError
from tatara.rl.record import Prompt
from tatara.rl.rewards.completion import Completion, Failure
from tatara.rl.rewards.config import read_rewards
from tatara.rl.rewards.pool import FunctionPool

ILL = Path(__file__).parent / "ill_rewards.py"
COMPLETION = Completion(Prompt("prompt-7", "s", (), (), {"answer": "42"}), "12345")


def pool_of(*functions, timeout=30.0, processes=1, memory=1 << 30, **more):
    rewards = {name: {"kind": "python", "function": f"{ILL}:{name}", "timeout": timeout} for name in functions}
    return FunctionPool(read_rewards(rewards | more), processes, memory, 120.0)


@pytest.fixture(scope="module")
def values():
    """What one process says of all that come back; no process is lost over it."""
    with_bonus = {"kind": "python", "function": f"{ILL}:with_bonus", "arguments": {"bonus": 0.5}}
    names = ["length", "numpy_number", "prints", "raises", "leaves", "not_a_number", "infinite", "nothing", "text"]
    pool = pool_of(*names, "forks", "leaves_a_child", "fills_memory", with_bonus=with_bonus)
    pool.start()
    first, second = pool.submit(COMPLETION).result(), pool.submit(COMPLETION).result()
    restarts = dict(pool.restarts)
    pool.close()
    assert first == second
    assert restarts == {}
    return first


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", 5.0),
        ("with_bonus", 5.5),
        ("numpy_number", 0.5),
        ("prints", 1.0),
        ("raises", Failure("ValueError: several lines")),
        ("leaves", Failure("SystemExit: 3")),
        ("not_a_number", Failure("returned nan")),
        ("infinite", Failure("returned -inf")),
        ("nothing", Failure("returned None (NoneType), not a number")),
        ("text", Failure("returned '1.0' (str), not a number")),
        ("forks", 2.5),
        ("leaves_a_child", 1.5),
        ("fills_memory", Failure("MemoryError")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_that_comes_back(values, name, value):
    assert values[name] == value


def test_a_function_that_does_not_come_back_costs_its_value_alone():
    ill = ["loops_in_c", "kills_itself", "leaves_hard", "closes_everything"]
    pool = pool_of("length", *ill, timeout=2.0, last={"kind": "format", "pattern": ".*"})
    pool.start()
    found = pool.submit(COMPLETION).result()
    assert found == {
        "length": 5.0,
        "loops_in_c": Failure("took longer than 2 s"),
        "kills_itself": Failure("its process was ended by SIGKILL"),
        "leaves_hard": Failure("its process ended with exit code 7"),
        "closes_everything": found["closes_everything"],
        "last": 1.0,
    }
    assert isinstance(found["closes_everything"], Failure)
    assert pool.restarts == dict.fromkeys(ill, 1)
    pool.close()


def test_a_dead_process_is_replaced_and_the_others_go_on(tmp_path):
    pool = pool_of("once_only", processes=2)
    pool.start()
    prompts = [Prompt(str(n), "s", (), (), {"mark": str(tmp_path / str(n % 3))}) for n in range(12)]
    found = [promise.result() for promise in [pool.submit(Completion(prompt, "")) for prompt in prompts]]
    lost = [each for each in found if each["once_only"] != 1.0]
    assert len(lost) == pool.restarts["once_only"] == 3
    assert all(each["once_only"] == Failure("its process ended with exit code 9") for each in lost)
    pool.close()


def test_mathematics_that_cannot_be_worked_out_is_wrong_not_a_failure():
    slow = {"kind": "math", "timeout": 2.0, "cpu_seconds": 600.0}
    pool = FunctionPool(read_rewards({"right": slow}), 1, 4 << 30, 120.0)
    pool.start()
    tower = Completion(Prompt("p", "s", (), (), {"answer": "x"}), r"\boxed{9^{9^{9^{9}}} + x}")
    assert pool.submit(tower).result() == {"right": 0.0}
    assert (pool.stuck["right"], pool.restarts["right"]) == (1, 1)
    pool.close()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (f"{ILL}:lenght", "has no 'lenght'; did you mean 'length'?"),
        (f"{ILL}:COUNT", "is a float, not a function"),
        (f"{ILL}:asynchronous", "is an async function; a plain one is needed"),
        (f"{ILL}:two_arguments", "cannot be called as (completion): missing a required argument: 'other'"),
        ("no_such_module:f", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("/no/such/file.py:f", "no file at /no/such/file.py"),
        ("function", "'function' is not module:name or path/file.py:name"),
    ],
    ids=range(7),
)
def test_a_function_that_is_none_is_refused_in_one_line(function, message):
    from tatara.rl.rewards.functions import build_functions

    with pytest.raises(ConfigError) as caught:
        build_functions(read_rewards({"mine": {"kind": "python", "function": function}}))
    assert str(caught.value).startswith("reward mine: ")
    assert message in str(caught.value)


def test_a_refusal_crosses_from_the_process():
    pool = pool_of("two_arguments")
    with pytest.raises(ConfigError, match=r"reward two_arguments: .* cannot be called as"):
        pool.start()
    pool.close()


def test_a_process_that_is_not_ready_in_time_is_a_line(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    rewards = read_rewards({"slow": {"kind": "python", "function": f"{tmp_path}/slow.py:f"}})
    pool = FunctionPool(rewards, 1, 1 << 30, 1.0)
    with pytest.raises(TataraError, match=r"not ready after 1 s: .* raise scoring\.start_seconds"):
        pool.start()
    pool.close()


def test_processes_end_with_their_parent_even_in_native_code(tmp_path):
    """The parent is killed while a function hangs where no signal handler and no thread of Python runs."""
    code = (
        "import glob, os, time\n"
        "from rl.rewards.test_pool import COMPLETION, pool_of\n"
        "pool = pool_of('loops_in_c', timeout=600.0); pool.start()\n"
        "pool.submit(COMPLETION); time.sleep(0.5)\n"
        "print(*[open(path).read() for path in glob.glob(f'/proc/{os.getpid()}/task/*/children')], flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    (child,) = map(int, parent.stdout.readline().split())
    parent.send_signal(signal.SIGKILL)
    parent.wait(30)
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
