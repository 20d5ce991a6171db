"""Whether the right answers are taken for right, and the wrong ones for wrong: by hand, and on GSM8K and MATH."""

import gzip
import json
from fractions import Fraction

import pytest

from tatara.errors import DataError
from tatara.rl.record import Prompt
from tatara.rl.rewards.completion import Completion
from tatara.rl.rewards.kinds import MathConfig
from tatara.rl.rewards.mathematics import equal, expressions_equal, final_answer, gold_answer, number, plain

RIGHT = {
    "whole": ("42", r"so we get \boxed{42}."),
    "as text": ("42", "The answer is 42."),
    "bold": ("42", "**Answer: 42**"),
    "hashes": ("42", "6 * 7 = 42\n#### 42"),
    "gold solution with hashes": ("6 * 7 = <<6*7=42>>42\n#### 42", "the total is 42"),
    "gold solution with a box": (r"Hence $x = \boxed{\frac{1}{2}}$.", r"\boxed{0.5}"),
    "negative": ("-7", r"\boxed{-7}"),
    "unicode minus": ("-7", "The answer is −7"),
    "thousands": ("12,345", r"\boxed{12345}"),
    "thousands in latex": ("12345", r"\boxed{12{,}345}"),
    "thousands with a thin space": (r"10,\!080", r"\boxed{10080}"),
    "dollars": ("18", r"She makes \boxed{\$18} a day"),
    "dollars in text": ("18", "She makes $18 every day."),
    "two dollar amounts": ("18", "Eggs cost $2, so she makes $18."),
    "cents": ("18", "Final answer: $18.00"),
    "unit": ("42", r"\boxed{42 \text{ cm}}"),
    "unit in text": ("18", "#### 18 dollars"),
    "square unit": ("12 square meters", r"\boxed{12}"),
    "unit on both sides": ("5 cm", r"\boxed{5 \text{ cm}}"),
    "percent as a word": ("25", "The answer is 25 percent."),
    "degrees": ("90", r"\boxed{90^\circ}"),
    "fraction": (r"\frac{3}{4}", r"\boxed{3/4}"),
    "short fraction": (r"\frac34", r"\boxed{\dfrac{3}{4}}"),
    "fraction as decimals": (r"\frac{3}{4}", r"\boxed{0.75}"),
    "rounded fraction": (r"\frac{1}{3}", r"\boxed{0.333333}"),
    "negative fraction": (r"-\frac{1}{2}", r"\boxed{\frac{-1}{2}}"),
    "fraction not in lowest terms": ("1/2", r"\boxed{\frac{2}{4}}"),
    "mixed number": (r"2\frac{1}{2}", r"\boxed{2.5}"),
    "percent": (r"50\%", r"\boxed{50}"),
    "percent as a share": ("0.5", r"\boxed{50\%}"),
    "percent in text": ("25", "The answer is 25%."),
    "decimals": ("0.5", r"\boxed{.5}"),
    "trailing zeros": ("2.50", r"\boxed{2.5}"),
    "root": (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
    "symbols in another order": ("x^2 + 2x + 1", r"\boxed{(x+1)^2}"),
    "assignment": ("5", r"\boxed{x = 5}"),
    "pair": (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}"),
    "set in another order": (r"\{1, 2, 3\}", r"\boxed{\{3, 1, 2\}}"),
    "list in another order": ("-2, 1", r"\boxed{1, -2}"),
    "interval": ("(2, 5]", r"\boxed{(2,5]}"),
    "union": (r"(-\infty, 2) \cup (3, \infty)", r"\boxed{(3,\infty) \cup (-\infty,2)}"),
    "matrix": (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}"),
    "word": (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}"),
    "word without text": (r"\text{even}", r"\boxed{even}"),
    "choice": (r"\text{(C)}", r"\boxed{(C)}"),
    "last box counts": ("3", r"first \boxed{2}, no: \boxed{3}"),
    "nested braces": (r"\frac{a}{b^{2}}", r"\boxed{\frac{a}{b^{2}}}"),
    "box in dollars": ("7", r"$$\boxed{7}$$ Done 2024."),
    "fbox": ("7", r"\fbox{7}"),
    "answer then prose": ("12", "The final answer is $12$. I hope it is correct."),
    "last formula": (r"\frac{1}{2}", r"Thus the value equals $\frac{1}{2}$."),
    "list of choices": (["1", "2"], r"\boxed{2}"),
    "number in the data": (42, r"\boxed{42}"),
}
WRONG = {
    "another number": ("42", r"\boxed{43}"),
    "no answer": ("42", "I do not know."),
    "empty": ("42", ""),
    "other unit": ("5 cm", "The answer is 5 km"),
    "a word that multiplies": ("3", "The answer is 3 thousand"),
    "a letter is no unit": ("2", r"\boxed{2 x}"),
    "sign": ("7", r"\boxed{-7}"),
    "magnitude": ("12345", r"\boxed{12,346}"),
    "rounded too much": (r"\frac{1}{3}", r"\boxed{0.33}"),
    "decimals that differ late": ("0.1234567", r"\boxed{0.1234568}"),
    "upside down": (r"\frac{3}{4}", r"\boxed{\frac{4}{3}}"),
    "percent of another": (r"50\%", r"\boxed{5}"),
    "right only before": ("2", r"first \boxed{2}, no: \boxed{3}"),
    "open for closed": ("[2, 5]", r"\boxed{(2,5)}"),
    "pair turned round": ("(1, 2)", r"\boxed{(2, 1)}"),
    "too few": ("1, 2", r"\boxed{1}"),
    "too many": ("1", r"\boxed{1, 2, 3}"),
    "other word": (r"\text{Evelyn}", r"\boxed{\text{Carla}}"),
    "box never closed": ("42", r"\boxed{4"),
    "division by zero": ("1", r"\boxed{1/0}"),
    "other letter": ("x + 1", r"\boxed{y + 1}"),
    "a wall of text": ("42", r"\boxed{" + "42 + " * 200 + "0}"),
    "a tower that nobody can work out": ("x", r"\boxed{9^{9^{9^{9}}} + x}"),
}


@pytest.fixture(scope="module")
def judge():
    from tatara.rl.rewards.mathematics import build

    reward = build(MathConfig(cpu_seconds=1.0))

    def value(gold, response):
        return reward(Completion(Prompt("p", "s", (), (), {"answer": gold}), response))

    return value


@pytest.mark.parametrize("case", RIGHT)
def test_right_answers_are_right(judge, case):
    assert judge(*RIGHT[case]) == 1.0


@pytest.mark.parametrize("case", WRONG)
def test_wrong_answers_are_wrong(judge, case):
    assert judge(*WRONG[case]) == 0.0


def test_where_the_answer_must_stand():
    response = "The answer is 5.\n#### 6\nthat is \\boxed{7}"
    assert final_answer(response) == "7"
    assert final_answer(response, "hashes") == "6"
    assert final_answer("The answer is 5.", "boxed") is None
    assert final_answer("The answer is 5.", "hashes") is None
    assert final_answer("The answer is 5.\n####", "hashes") is None


@pytest.mark.parametrize("metadata", [{}, {"answer": None}, {"answer": " "}, {"answer": []}], ids=str)
def test_a_prompt_without_its_answer_is_named(metadata):
    from tatara.rl.rewards.mathematics import build

    with pytest.raises(DataError, match=r"answer.*prompt-7|prompt-7.*answer"):
        build(MathConfig())(Completion(Prompt("prompt-7", "s", (), (), metadata), "42"))


def rows(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.data
def test_every_solution_of_gsm8k_has_its_own_answer_and_no_other(sample_data):
    found = rows(sample_data / "gsm8k" / "test.jsonl.gz")
    golds = [row["answer"].split("#### ")[1] for row in found]
    judged = [equal(gold, final_answer(row["answer"]) or "") for row, gold in zip(found, golds, strict=True)]
    assert sum(judged) == len(found) == 1319
    for gold in golds:
        value = int(gold.replace(",", ""))
        # Written in other words it stays right, and changed it is wrong.
        assert equal(gold, final_answer(f"So it is ${value:,}.00 in all.") or "")
        assert not equal(gold, final_answer(f"The answer is {value + 1}.") or "")
        assert not equal(gold, str(-value)) or value == 0
        assert not equal(gold, str(10 * value)) or value == 0


@pytest.mark.data
def test_every_solution_of_math500_has_the_answer_that_others_took_from_it(sample_data):
    found = rows(sample_data / "math500" / "test.jsonl")
    assert [row["unique_id"] for row in found if not equal(row["answer"], gold_answer(row["solution"]))] == []
    numbers = {row["answer"]: number(plain(row["answer"])) for row in found}
    plain_numbers = {answer: value[0] for answer, value in numbers.items() if value is not None}
    assert len(plain_numbers) > 150
    for answer, value in plain_numbers.items():
        assert equal(answer, rf"\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}")
        assert not equal(answer, str(value + Fraction(1, 7)))


@pytest.mark.data
def test_most_answers_of_math_equal_themselves_as_expressions(sample_data):
    """Without the comparison as text, so that it is math-verify that has to read them."""
    answers = [gold_answer(row["solution"]) for row in rows(sample_data / "math" / "test.jsonl.gz")]
    expressions = sorted({answer for answer in answers if number(plain(answer)) is None})[::18]
    missed = [answer for answer in expressions if not expressions_equal(answer, f" {answer} ")]
    assert len(expressions) > 40
    assert len(missed) <= 0.02 * len(expressions), missed
    shifted = zip(expressions, expressions[1:] + expressions[:1], strict=True)
    taken = [pair for pair in shifted if plain(pair[0]) != plain(pair[1]) and expressions_equal(*pair)]
    assert taken == []
