"""Tools that a model calls: the forms of calls, answers, limits, and what is told when a call goes wrong."""

import json

import pytest

from tatara.config import Config, load
from tatara.errors import ConfigError
from tatara.rl.environments.config import CalculatorConfig, Environments, PythonToolConfig, ToolsConfig
from tatara.rl.environments.environment import Reply
from tatara.rl.environments.tool_calls import BadCall, ToolCall, find_calls
from tatara.rl.environments.tools import Tools, shorten
from tatara.rl.record import Prompt

PROMPT = Prompt("prompt-7", "s", ({"role": "user", "content": "?"},), ())


class Page(Config):
    environments: Environments


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def told(tools, turn, before=()):
    reply = tools.reply(PROMPT, before, turn)
    assert reply is not None
    assert all(message["role"] == "tool" for message in reply.messages)
    return [message["content"] for message in reply.messages]


@pytest.fixture(scope="module")
def both():
    from tatara.rl import sandbox

    if sandbox.available() is not None:
        pytest.skip(sandbox.available())
    return Tools(ToolsConfig(output_characters=100, seconds=3.0, max_calls=3))


def test_calls_are_answered_in_their_order(both):
    turn = f"First {call('calculator', expression='23 + 45')}, then\n```python\nprint(6 * 7)\n```\nand wait."
    assert told(both, turn) == ["68", "42"]


def test_a_turn_without_a_call_finishes(both):
    assert both.reply(PROMPT, [], "The answer is 68.") is None
    assert both.reply(PROMPT, ["", "", "", ""], "The answer is 68.") is None


def test_the_last_turn_gets_no_answer(both):
    turn = call("calculator", expression="1")
    assert both.reply(PROMPT, ["a", "b"], turn) == Reply(({"role": "tool", "content": "1"},))
    assert both.reply(PROMPT, ["a", "b", "c"], turn) == Reply(finish="turns")


@pytest.mark.parametrize(
    ("turn", "answer"),
    [
        (call("calculator", expression="1/0"), "Error: division by zero"),
        (call("calculator", text="1"), 'Error: calculator needs the argument "expression", a string'),
        (call("calculator", expression=1), 'Error: calculator needs the argument "expression", a string'),
        (call("python"), 'Error: python needs the argument "code", a string'),
        (call("search", query="x"), "Error: there is no tool 'search'; there are calculator, python"),
        ("<tool_call>{broken</tool_call>", "Error: the tool call is not JSON: "),
        ("<tool_call>[1]</tool_call>", 'Error: a tool call is an object with a "name" and "arguments"'),
        ('<tool_call>{"name": "python", "arguments": 3}</tool_call>', 'Error: "arguments" must be an object'),
        (call("python", code="1/0"), "Error: ZeroDivisionError: division by zero"),
        (call("python", code="print('so far'); 1/0"), "so far\nError: ZeroDivisionError: division by zero"),
        (call("python", code="x = 1"), "(no output; use print to show a result)"),
        (call("python", code="while True: pass"), "Error: the program took longer than 3 seconds"),
        (call("python", code="x = bytearray(4 << 30)"), "Error: the program ran out of memory"),
        (call("python", code="import socket; socket.create_connection(('1.1.1.1', 80))"), "Error: "),
    ],
    ids=range(14),
)
def test_what_goes_wrong_is_told_to_the_model(both, turn, answer):
    (said,) = told(both, turn)
    assert said.startswith(answer)


def test_long_output_loses_its_middle(both):
    (said,) = told(both, call("python", code="print('a' * 500 + 'b' * 500)"))
    assert len(said) == 100
    assert said.startswith("aaa")
    assert said.endswith("bbb")
    assert shorten("short", 100) == "short"


def test_more_calls_than_allowed_are_not_made(both):
    said = told(both, call("calculator", expression="1") * 9)
    assert said == ["1", "1", "1", "Error: more than 3 calls in a turn; the rest was not made"]


def test_each_kind_has_its_own_tools():
    assert told(Tools(CalculatorConfig()), call("python", code="1")) == [
        "Error: there is no tool 'python'; there are calculator"
    ]
    assert PythonToolConfig().tools == ("python",)


def test_forms_of_calls():
    nested = '<tool_call>{"name": "python", "arguments": {"code": "```python\\nx\\n```"}}</tool_call>'
    assert find_calls(nested, ["hermes", "fenced"]) == [ToolCall("python", {"code": "```python\nx\n```"})]
    assert find_calls("```python\nx\n```", ["hermes"]) == []
    assert find_calls("<tool_call>{}</tool_call>", ["fenced"]) == []
    # The end of the call may be the stop token, which is no text.
    assert find_calls('<tool_call>{"name": "a"}', ["hermes"]) == [ToolCall("a", {})]
    assert find_calls('<tool_call>{"name": "a", "arguments": "{\\"b\\": 1}"}</tool_call>', ["hermes"]) == [
        ToolCall("a", {"b": 1})
    ]
    (bad,) = find_calls("<tool_call>" + "[" * 100_000 + "</tool_call>", ["hermes"])
    assert isinstance(bad, BadCall)


@pytest.mark.parametrize(
    ("environments", "message"),
    [
        ({"a": {"kind": "calculater"}}, "environments: a: unknown kind 'calculater'; did you mean 'calculator'?"),
        ({"a": {"kind": "tools", "tool": []}}, "environments: a: tool: unknown key; did you mean 'tools'?"),
        ({"a": {"kind": "tools", "tools": []}}, "environments: a: tools: at least one is needed"),
        ({"a": {"kind": "custom"}}, "environments: a: target: required, but not given"),
        ([], "environments: a mapping of names to environments is needed, such as {tools: {kind: calculator}}"),
    ],
    ids=range(5),
)
def test_a_wrong_page_is_one_line(environments, message):
    with pytest.raises(ConfigError) as caught:
        load(Page, {"environments": environments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_page_survives_its_dump():
    page = load(Page, {"environments": {"a": "calculator", "b": {"kind": "tools", "max_turns": 7}}})
    assert load(Page, page.dump()) == page
