"""Running a response's program against unit tests, in the sandbox."""

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tatara.errors import DataError, EngineError
from tatara.rl.rewards.completion import Completion, Failure, Result
from tatara.rl.rewards.kinds import CodeConfig
from tatara.rl.rewards.metadata import needed

_FENCED = re.compile(r"```(?:python|py|Python)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)

# What runs in the sandbox. It reads everything before the answer's program starts, and says which tests passed by a
# word that the program was not told: leaving early, printing or closing descriptors passes no test.
_HARNESS = """
import json, os, sys

def main():
    task = json.load(sys.stdin)
    report = os.dup(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    word, tests = task.pop("word"), task.pop("tests")
    names = {"__name__": "answer", "__builtins__": __builtins__}
    exec(compile(task.pop("code"), "<answer>", "exec"), names)
    exec(compile(task.pop("setup"), "<setup>", "exec"), names)
    for number, test in enumerate(tests):
        try:
            exec(compile(test, f"<test {number}>", "exec"), names)
        except BaseException:
            continue
        os.write(report, f"{word} {number}\\n".encode())

main()
"""


@dataclass(frozen=True)
class Exchange:
    """A test that gives a program its input and compares what it prints."""

    stdin: str
    stdout: str


class UnitTests:
    """The ``code`` reward. Programs run in sandboxes, so that many threads may ask for scores at a time.

    A program shares a process with ``assert`` tests and could, if it set out to, find out how they report (by looking
    through the interpreter's frames); tests by input and output cannot be deceived.
    """

    def __init__(self, config: CodeConfig) -> None:
        """Prepare the reward of a configuration.

        Raises:
            EngineError: This machine cannot isolate programs.
        """
        from tatara.rl import sandbox

        missing = sandbox.available()
        if missing is not None:
            raise EngineError(missing)
        self._config = config

    def __call__(self, completion: Completion) -> Result:
        """The share of tests passed, or 1 only if all were.

        Raises:
            EngineError: The sandbox itself failed.
        """
        try:
            tests = read_tests(needed(completion.prompt, self._config.key), completion.prompt.id)
        except DataError as error:
            return Failure(str(error))
        code = find_code(completion.answer)
        if not code.strip():
            return 0.0
        if isinstance(tests[0], Exchange):
            passed = self._exchanges(code, [test for test in tests if isinstance(test, Exchange)])
        else:
            setup = str(completion.prompt.metadata.get(self._config.setup_key) or "")
            passed = self._asserts(code, setup, [str(test) for test in tests])
        return passed / len(tests) if self._config.score == "fraction" else float(passed == len(tests))

    def _asserts(self, code: str, setup: str, tests: Sequence[str]) -> int:
        word = secrets.token_hex(16)
        task = {"word": word, "code": code, "setup": setup, "tests": tests}
        outcome = self._run(_HARNESS, json.dumps(task), self._config.timeout)
        return len({line for line in outcome.stdout.splitlines() if line.startswith(f"{word} ")})

    def _exchanges(self, code: str, tests: Sequence[Exchange]) -> int:
        deadline, passed = time.monotonic() + self._config.timeout, 0
        for test in tests:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            outcome = self._run(code, test.stdin, left)
            if outcome.status == "ok" and _lines(outcome.stdout) == _lines(test.stdout):
                passed += 1
            elif self._config.score == "all":
                break
        return passed

    def _run(self, code: str, stdin: str, seconds: float) -> Any:
        from tatara.rl import sandbox

        limits = sandbox.Limits(cpu_seconds=seconds, wall_seconds=seconds, memory_bytes=self._config.memory_bytes)
        return sandbox.run(code, limits=limits, stdin=stdin, packages=self._config.packages)


def find_code(answer: str) -> str:
    """The program in an answer: its last fenced block, else all of it."""
    blocks = _FENCED.findall(answer)
    return str(blocks[-1]) if blocks else answer


def read_tests(value: Any, prompt: str) -> list[str | Exchange]:
    """The tests of a prompt, all of one sort.

    Raises:
        DataError: There are none, or they are in no known form; the message names the prompt.
    """
    if isinstance(value, Mapping) and {"inputs", "outputs"} <= set(value):
        inputs, outputs = value["inputs"], value["outputs"]
        if len(inputs) != len(outputs):
            raise DataError(f"prompt '{prompt}' has {len(inputs)} inputs of tests and {len(outputs)} outputs")
        value = [{"stdin": given, "stdout": wanted} for given, wanted in zip(inputs, outputs, strict=True)]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"prompt '{prompt}' has no tests: a list of asserts or of {{stdin, stdout}} is needed")
    if all(isinstance(test, str) for test in value):
        return list(value)
    if all(isinstance(test, Mapping) and {"stdin", "stdout"} <= set(test) for test in value):
        return [Exchange(str(test["stdin"]), str(test["stdout"])) for test in value]
    raise DataError(f"prompt '{prompt}' has tests of different forms: asserts, or {{stdin, stdout}}, not both")


def _lines(text: str) -> list[str]:
    """Output as it is compared: spaces at the ends of lines and empty lines at the end do not count."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
