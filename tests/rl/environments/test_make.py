"""A user's own environment: made, asked, and named when it is wrong."""

from pathlib import Path

import pytest

from tatara.errors import ConfigError, TrainingError
from tatara.rl.environments.config import read_environments
from tatara.rl.environments.environment import Reply
from tatara.rl.environments.make import make_environments
from tatara.rl.record import Prompt

OWN = Path(__file__).parent / "own_environments.py"
PROMPT = Prompt("prompt-7", "s", (), ())


def make(name, **more):
    kind = {"kind": "custom", "target": f"{OWN}:{name}", **more}
    return make_environments(read_environments({"mine": kind}))["mine"]


def test_a_class_of_the_user_answers():
    mine = make("Counter", arguments={"limit": 3})
    assert mine.reply(PROMPT, [], "a") == Reply(({"role": "user", "content": "turn 1 of prompt-7"},))
    assert mine.reply(PROMPT, ["a", "b"], "c") == Reply(finish="environment")
    assert mine.reply(PROMPT, ["a"], "done") is None


def test_it_has_no_more_turns_than_configured():
    assert make("Counter", max_turns=2).reply(PROMPT, ["a"], "b") == Reply(finish="turns")


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("Countr", {}, "has no 'Countr'; did you mean 'Counter'?"),
        ("Counter", {"arguments": {"limits": 1}}, "cannot be called as (limits=...)"),
        ("NoReply", {}, "has no method reply(prompt, turns_so_far, last_turn)"),
        ("OtherReply", {}, "cannot be called as (prompt, turns_so_far, last_turn)"),
        ("Unmade", {}, "cannot be made: RuntimeError: several lines"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, more, message):
    with pytest.raises(ConfigError) as caught:
        make(name, **more)
    assert str(caught.value).startswith("environment mine: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("gone", "KeyError: 'gone'"),
        (3, "reply returned a int, not a Reply or None"),
        (Reply(), "a Reply needs messages, or a finish"),
        (Reply(({"role": "tool"},)), "each message of a Reply needs role and content"),
        (Reply(({"role": "assistant", "content": ""},)), "a message of a Reply cannot be the assistant's"),
    ],
    ids=range(5),
)
def test_what_answers_wrongly_is_one_line(answer, message):
    with pytest.raises(TrainingError) as caught:
        make("Ill", arguments={"answer": answer}).reply(PROMPT, [], "a")
    assert str(caught.value) == f"environment 'mine' failed on prompt 'prompt-7': {message}"
