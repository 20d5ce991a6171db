"""Rewards that read text: exact match, patterns, format, length and JSON."""

import pytest

from tatara.errors import ConfigError, DataError
from tatara.rl.record import Prompt
from tatara.rl.rewards.completion import Completion
from tatara.rl.rewards.functions import build_functions
from tatara.rl.rewards.kinds import KINDS

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CASES = {
    # kind, settings, metadata, response, value
    "exact": ("exact", {}, {"answer": "Paris"}, " paris\n", 1.0),
    "exact, capitals count": ("exact", {"ignore_case": False}, {"answer": "Paris"}, "paris", 0.0),
    "exact, of several": ("exact", {}, {"answer": ["Paris", "City of Light"]}, "city  of light", 1.0),
    "exact, wide characters": ("exact", {}, {"answer": "ABC 1"}, "ＡＢＣ　１", 1.0),
    "exact, punctuation counts": ("exact", {}, {"answer": "Paris"}, "Paris.", 0.0),
    "exact, no punctuation": ("exact", {"ignore_punctuation": True}, {"answer": "Paris"}, "«Paris».", 1.0),
    "exact, no articles": ("exact", {"ignore_articles": True}, {"answer": "a dog"}, "The dog", 1.0),
    "exact, extracted": ("exact", {"extract": r"<a>(.*?)</a>"}, {"answer": "2"}, "<a>1</a> <a>2</a>", 1.0),
    "exact, nothing to extract": ("exact", {"extract": r"<a>(.*?)</a>"}, {"answer": "2"}, "2", 0.0),
    "exact, a number": ("exact", {}, {"answer": 7}, "7", 1.0),
    "regex": ("regex", {"pattern": r"^\d+$"}, {}, "so\n42", 1.0),
    "regex, none": ("regex", {"pattern": r"^\d+$"}, {}, "so 42", 0.0),
    "regex, metadata is literal": ("regex", {"pattern": r"= {answer}\b"}, {"answer": "1.5"}, "= 1x5", 0.0),
    "regex, metadata": ("regex", {"pattern": r"= {answer}\b"}, {"answer": "1.5"}, "= 1.5", 1.0),
    "regex, counts are counts": ("regex", {"pattern": r"\d{2,3}"}, {}, "123", 1.0),
    "regex, the prompt's own": ("regex", {"key": "pattern"}, {"pattern": "b+"}, "abb", 1.0),
    "format": ("format", {"pattern": r"<think>.*</think>.+"}, {}, "<think>a\nb</think>c", 1.0),
    "format, not all of it": ("format", {"pattern": r"<think>.*</think>"}, {}, "<think>a</think>c", 0.0),
    "length": ("length", {"maximum": 10, "fade": 4, "unit": "characters"}, {}, "x" * 10, 0.0),
    "length, half over": ("length", {"maximum": 10, "fade": 4, "unit": "characters"}, {}, "x" * 12, -0.5),
    "length, far over": ("length", {"maximum": 10, "fade": 4, "unit": "characters"}, {}, "x" * 99, -1.0),
    "length, under": ("length", {"minimum": 4, "fade": 4, "unit": "characters"}, {}, "xxx", -0.25),
    "length, sampled tokens": ("length", {"maximum": 5, "fade": 4}, {}, "x", -0.5),
    "json": ("json", {"required": ("n",)}, {}, 'Here:\n```json\n{"n": 1}\n```', 1.0),
    "json, last block": ("json", {"required": ("n",)}, {}, '```json\n{"n": 1}\n```\n```json\n{}\n```', 0.0),
    "json, nothing but": ("json", {"where": "whole"}, {}, 'Here:\n```json\n{"n": 1}\n```', 0.0),
    "json, schema": ("json", {"json_schema": SCHEMA}, {}, '{"n": 1}', 1.0),
    "json, against the schema": ("json", {"json_schema": SCHEMA}, {}, '{"n": "1"}', 0.0),
    "json, the prompt's schema": ("json", {"key": "schema"}, {"schema": SCHEMA}, '{"n": "1"}', 0.0),
    "json, broken": ("json", {}, {}, '{"n": 1', 0.0),
    "json, repeated key": ("json", {}, {}, '{"n": 1, "n": 2}', 0.0),
    "json, not a number": ("json", {}, {}, '{"n": NaN}', 0.0),
    "json, very deep": ("json", {}, {}, "[" * 100_000, 0.0),
    "json, required of a list": ("json", {"required": ("n",)}, {}, '["n"]', 0.0),
}


def score(kind, settings, metadata, response, **completion):
    (function,) = build_functions({"it": KINDS[kind](**settings)}).values()
    return function(Completion(Prompt("prompt-7", "s", (), (), metadata), response, sampled_tokens=7, **completion))


@pytest.mark.parametrize("case", CASES)
def test_a_reward_has_its_value(case):
    kind, settings, metadata, response, value = CASES[case]
    assert score(kind, settings, metadata, response) == value


def test_an_answer_is_looked_for_in_the_last_turn_and_a_format_in_all():
    turns = {"turns": ("use the tool", "it is 5")}
    whole = "use the tool\n42\nit is 5"
    assert score("regex", {"pattern": "42"}, {}, whole, **turns) == 0.0
    assert score("format", {"pattern": ".*42.*"}, {}, whole, **turns) == 1.0


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("exact", {}), ("regex", {"pattern": "{answer}"}), ("regex", {"key": "answer"}), ("json", {"key": "answer"})],
    ids=str,
)
def test_what_a_prompt_lacks_is_named(kind, settings):
    with pytest.raises(DataError, match="prompt 'prompt-7' has no 'answer' in its metadata \\(it has other\\)"):
        score(kind, settings, {"other": 1}, "{}")


def test_a_schema_that_is_none_is_named():
    with pytest.raises(ConfigError, match="reward it: json_schema: not a JSON schema: 'none' is not valid"):
        score("json", {"json_schema": {"type": "none"}}, {}, "{}")
    with pytest.raises(DataError, match="'schema' of prompt 'prompt-7': not a JSON schema"):
        score("json", {"key": "schema"}, {"schema": {"type": "none"}}, "{}")
