"""What is written into a configuration, and what a user reads when it is wrong."""

import subprocess
import sys

import pytest

from tatara.config import Config, load
from tatara.errors import ConfigError
from tatara.rl.rewards.config import Rewards, ScoringConfig
from tatara.rl.rewards.kinds import MathConfig


class Page(Config):
    rewards: Rewards
    scoring: ScoringConfig = ScoringConfig()


def test_a_page_survives_its_dump():
    page = load(Page, {"rewards": {"right": {"kind": "math", "weight": 2, "clip": [0, 1]}, "short": "length"}})
    assert isinstance(page.rewards["right"], MathConfig)
    assert load(Page, page.dump()) == page
    assert page.identity()["rewards"]["right"]["weight"] == 2.0
    assert "processes" not in page.identity()["scoring"]


def test_one_key_can_be_set_from_the_command_line():
    page = load(Page, {"rewards": {"right": {"kind": "math"}}}, {"rewards.right.weight": "0.5"})
    assert page.rewards["right"].weight == 0.5


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({}, "rewards: there is no reward; give one, such as {correct: {kind: math}}"),
        ("math", "rewards: a mapping of names to rewards is needed"),
        ({"a": {}}, "rewards: a: the reward needs a kind; known: code, exact, format"),
        ({"a": {"kind": "maths"}}, "rewards: a: unknown kind 'maths'; did you mean 'math'?"),
        ({"a": {"kind": "math", "wieght": 1}}, "rewards: a: wieght: unknown key; did you mean 'weight'?"),
        ({"a": {"kind": "math", "weight": 0}}, "every reward has the weight 0"),
        ({"a": {"kind": "math", "clip": [1, 0]}}, "a: clip: the least value comes first"),
        ({"a": {"kind": "regex"}}, "rewards: a: give either pattern or key"),
        ({"a": {"kind": "regex", "pattern": "("}}, "a: pattern: not a regular expression: missing )"),
        ({"a": {"kind": "exact", "extract": "(a)(b)"}}, "a: extract: has 2 groups where one is read"),
        ({"a": {"kind": "length", "minimum": 9, "maximum": 3}}, "a: maximum 3 is below minimum 9"),
        ({"a": {"kind": "judge", "url": "x", "model": "m", "template": "?"}}, "template must contain {response}"),
        ({"a": {"kind": "math", "timeout": 0}}, "a: timeout: input should be greater than 0"),
    ],
    ids=range(13),
)
def test_a_wrong_page_is_one_line_that_names_it(rewards, message):
    with pytest.raises(ConfigError) as caught:
        load(Page, {"rewards": rewards}, where="page.yaml")
    assert str(caught.value).startswith("page.yaml: rewards: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_configurations_are_light():
    heavy = {"ray", "torch", "sympy", "httpx", "jsonschema", "transformers", "math_verify"}
    modules = "tatara.rl.rewards.config, tatara.rl.environments.config, tatara.rl.reward_worker"
    code = f"import sys; import {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
