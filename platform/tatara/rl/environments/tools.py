"""The environment of tools: it makes the calls of a turn and answers them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tatara.errors import EngineError
from tatara.rl.environments.calculator import CalculationError, calculate
from tatara.rl.environments.config import ToolsConfig
from tatara.rl.environments.environment import Reply
from tatara.rl.environments.tool_calls import BadCall, ToolCall, find_calls
from tatara.rl.record import Prompt


class Tools:
    """Answers a turn's tool calls; what goes wrong in a call is told to the model, which may try again."""

    def __init__(self, config: ToolsConfig) -> None:
        """Prepare the tools of a configuration.

        Raises:
            EngineError: ``python`` is among them and this machine cannot isolate programs.
        """
        known: Mapping[str, Callable[[dict[str, Any]], str]] = {"calculator": _calculate, "python": self._python}
        self._config = config
        self._tools = {name: known[name] for name in config.tools}
        if "python" in self._tools:
            from tatara.rl import sandbox

            missing = sandbox.available()
            if missing is not None:
                raise EngineError(missing)

    def reply(self, prompt: Prompt, turns_so_far: Sequence[str], last_turn: str) -> Reply | None:
        """Make the calls of a turn; see `tatara.rl.environments.environment.Environment.reply`.

        Raises:
            EngineError: The sandbox itself failed.
        """
        calls = find_calls(last_turn, self._config.formats)
        if not calls:
            return None
        if len(turns_so_far) + 1 >= self._config.max_turns:
            return Reply(finish="turns")
        answered = calls[: self._config.max_calls + 1]
        return Reply(tuple(self._answer(number, call) for number, call in enumerate(answered)))

    def _answer(self, number: int, call: ToolCall | BadCall) -> dict[str, Any]:
        if number >= self._config.max_calls:
            content = f"Error: more than {self._config.max_calls} calls in a turn; the rest was not made"
        elif isinstance(call, BadCall):
            content = f"Error: {call.reason}"
        elif call.name not in self._tools:
            content = f"Error: there is no tool '{call.name}'; there are {', '.join(self._tools)}"
        else:
            content = self._tools[call.name](call.arguments)
        return {"role": self._config.role, "content": shorten(content, self._config.output_characters)}

    def _python(self, arguments: dict[str, Any]) -> str:
        from tatara.rl import sandbox

        code = arguments.get("code")
        if not isinstance(code, str):
            return 'Error: python needs the argument "code", a string'
        seconds = self._config.seconds
        limits = sandbox.Limits(cpu_seconds=seconds, wall_seconds=seconds, memory_bytes=self._config.memory_bytes)
        outcome = sandbox.run(code, limits=limits, packages=self._config.packages)
        told = {
            "ok": "",
            "error": f"Error: {_end(outcome.stderr)}",
            "timeout": f"Error: the program took longer than {seconds:g} seconds",
            "memory": "Error: the program ran out of memory",
            "killed": "Error: the program was ended (too much output, or a forbidden operation)",
        }[outcome.status]
        said = "\n".join(part for part in (outcome.stdout.rstrip(), told) if part)
        return said or "(no output; use print to show a result)"


def _calculate(arguments: dict[str, Any]) -> str:
    expression = arguments.get("expression")
    if not isinstance(expression, str):
        return 'Error: calculator needs the argument "expression", a string'
    try:
        return calculate(expression)
    except CalculationError as error:
        return f"Error: {error}"


def shorten(text: str, limit: int) -> str:
    """A text of at most so many characters, its middle left out."""
    if len(text) <= limit:
        return text
    mark = " … "
    head = (limit - len(mark)) * 2 // 3
    return text[:head] + mark + text[len(text) - (limit - len(mark) - head) :]


def _end(stderr: str) -> str:
    """The last line of a traceback, which says what was wrong."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the program failed"
