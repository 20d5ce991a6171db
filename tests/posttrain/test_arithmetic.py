"""Problems that are made up: right answers, all different, and none in both splits."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tatara.errors import ConfigError
from tatara.posttrain.arithmetic import conversations
from tatara.posttrain.dialogues import Arithmetic

NAMES = {"+": "add", "-": "subtract", "*": "multiply"}


@given(
    operations=st.lists(st.sampled_from(["add", "subtract", "multiply"]), min_size=1, unique=True),
    digits=st.integers(1, 6),
    negative=st.booleans(),
    seed=st.integers(0, 5),
)
@settings(max_examples=30)
def test_answers_are_right_and_splits_are_apart(operations: list[str], digits: int, negative: bool, seed: int) -> None:
    config = Arithmetic(operations=operations, digits=digits, negative=negative, train=12, validation=3)  # type: ignore[arg-type]
    made = conversations(config, 0.2, seed)
    assert [len(made[split]) for split in ("train", "validation")] == [12, 3]
    families: dict[str, set[tuple[str, int, int]]] = {"train": set(), "validation": set()}
    ids = []
    for split, found in made.items():
        for each in found:
            asked, answered = (message["content"] for message in each.messages)
            left, sign, right = re.fullmatch(r"What is (\d+) (.) (\d+)\?", asked).groups()  # type: ignore[union-attr]
            value = int(answered)
            # The other way round, so that the reference is not the code's own expression.
            assert {
                "+": value - int(left) == int(right),
                "-": value + int(right) == int(left),
                "*": value == sum([int(left)] * int(right)) if digits < 3 else value % int(left) == 0,
            }[sign]
            assert each.metadata == {"answer": answered}
            assert value >= 0 or negative
            assert len(left) == len(right) == digits
            assert NAMES[sign] in operations
            families[split].add((sign, min(int(left), int(right)), max(int(left), int(right))))
            ids.append(each.id)
    assert len(set(ids)) == len(ids)
    assert not families["train"] & families["validation"]
    assert conversations(config, 0.2, seed) == made


def test_every_operation_and_phrasing_occurs() -> None:
    phrasings = ("What is {left} {sign} {right}?", "{left} {sign} {right} =")
    made = conversations(Arithmetic(train=400, phrasings=phrasings), 0.1, 1)["train"]
    said = [each.messages[0]["content"] for each in made]
    for part in (" + ", " - ", "?", " ="):
        assert 100 < sum(part in text for text in said) < 300, part


def test_too_many_problems_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"arithmetic.train=4000, but there are only \d+ such problems of 1 digits"):
        conversations(Arithmetic(digits=1), 0.1, 1)
    with pytest.raises(ConfigError, match=r"raise validation_fraction=0.01"):
        conversations(Arithmetic(validation=2000), 0.01, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"phrasings": ["What is {left}?"]}, "must have {left}, {sign} and {right}"),
        ({"phrasings": ["{left} {sign} {right} {more}"]}, "must have {left}, {sign} and {right}"),
        ({"phrasings": ["{left} {sign} {right} {"]}, "must have {left}, {sign} and {right}"),
        ({"phrasings": []}, "phrasings must be at least one"),
        ({"operations": []}, "operations must be different"),
        ({"operations": ["add", "add"]}, "operations must be different"),
    ],
)
def test_wrong_settings_are_told(given: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Arithmetic.model_validate(given)
    assert expected in str(caught.value)
