"""Programs against unit tests, in the real sandbox."""

import gzip
import json

import pytest

from tatara.errors import DataError
from tatara.rl.record import Prompt
from tatara.rl.rewards.completion import Completion, Failure
from tatara.rl.rewards.kinds import CodeConfig
from tatara.rl.rewards.unit_tests import Exchange, find_code, read_tests

ADD = "def add(a, b):\n    return a + b\n"
TWO = ["assert add(1, 2) == 3", "assert add(2, 2) == 5"]
ECHO = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3", "7\n"]}
SUM = "a, b = map(int, input().split())\nprint(a + b)"
CASES = {
    # program, tests, share that passes
    "passes": (ADD, TWO[:1], 1.0),
    "half": (ADD, TWO, 0.5),
    "does not compile": ("def add(a, b) return a", TWO, 0.0),
    "raises": ("raise ValueError", TWO, 0.0),
    "leaves early with 0": (ADD + "import os\nos._exit(0)", TWO[:1], 0.0),
    "leaves in the test": ("import os\ndef add(a, b):\n    os._exit(0)", TWO[:1], 0.0),
    "SystemExit": (ADD + "import sys\nsys.exit(0)", TWO[:1], 0.0),
    "prints what looks like a report": ("print('0\\n1\\n' * 50)", TWO, 0.0),
    "a first test that leaves keeps none": (ADD, ["import os; os._exit(0)", TWO[0]], 0.0),
    "one that raises keeps the rest": (ADD, ["raise SystemExit", TWO[0]], 0.5),
    "loops after a passed test": (ADD + "def loop():\n    while True: pass\n", [TWO[0], "loop()"], 0.5),
    "input and output": (SUM, ECHO, 1.0),
    "input and output, half": ("input()\nprint(3)", ECHO, 0.5),
    "right output, failed": (SUM + "\nraise ValueError", ECHO, 0.0),
    "no program": ("", TWO, 0.0),
}


@pytest.fixture(scope="module")
def tested():
    from tatara.rl import sandbox
    from tatara.rl.rewards.unit_tests import UnitTests

    if sandbox.available() is not None:
        pytest.skip(sandbox.available())

    def share(program, tests, **settings):
        config = CodeConfig(**({"score": "fraction", "timeout": 2.0} | settings))
        metadata = {"tests": tests, "setup": "import math"}
        return UnitTests(config)(Completion(Prompt("prompt-7", "s", (), (), metadata), program))

    return share


@pytest.mark.parametrize("case", CASES)
def test_the_share_of_tests_that_pass(tested, case):
    program, tests, share = CASES[case]
    assert tested(f"Like this:\n```python\n{program}\n```\n", tests) == share


def test_all_or_nothing(tested):
    assert tested(ADD, TWO, score="all") == 0.0
    assert tested(ADD, TWO[:1], score="all") == 1.0
    assert tested("input()\nprint(3)", ECHO, score="all") == 0.0


def test_the_setup_is_there(tested):
    assert tested(ADD, ["assert math.pi > 3"]) == 1.0


def test_tests_that_are_none_are_a_failure_that_names_the_prompt(tested):
    assert tested(ADD, [{"input": "1"}, "assert True"]) == Failure(
        "prompt 'prompt-7' has tests of different forms: asserts, or {stdin, stdout}, not both"
    )


def test_forms_of_tests():
    assert read_tests(ECHO, "p") == [Exchange("1 2\n", "3"), Exchange("3 4\n", "7\n")]
    assert read_tests([{"stdin": 1, "stdout": 2}], "p") == [Exchange("1", "2")]
    assert read_tests("assert True", "p") == ["assert True"]
    with pytest.raises(DataError, match="prompt 'p' has 1 inputs of tests and 2 outputs"):
        read_tests({"inputs": ["1"], "outputs": ["1", "2"]}, "p")
    for empty in ([], {}, 3):
        with pytest.raises(DataError, match="prompt 'p' has no tests"):
            read_tests(empty, "p")


def test_where_the_program_stands():
    assert find_code("a = 1") == "a = 1"
    assert find_code("x\n```python\na = 1\n```\ny\n```py\nb = 2\n```") == "b = 2\n"
    assert find_code("```python\ncut off") == "cut off"


@pytest.mark.data
def test_solutions_of_humaneval_pass_and_broken_ones_do_not(tested, sample_data):
    (path,) = (sample_data / "humaneval").glob("*.jsonl*")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines][:24:4]
    for row in rows:
        tests = [f"{row['test']}\ncheck({row['entry_point']})"]
        solution = row["prompt"] + row["canonical_solution"]
        assert tested(solution, tests) == 1.0, row["task_id"]
        assert tested(row["prompt"] + "    return None\n", tests) == 0.0, row["task_id"]
