"""Whether a final answer is mathematically the right one."""

import logging
import math
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from types import FrameType
from typing import Any

from tatara.errors import require
from tatara.rl.rewards.completion import Completion
from tatara.rl.rewards.kinds import MathConfig
from tatara.rl.rewards.metadata import right_answers

# "the answer is 42", "Final answer: $x$", "Answer: 3/4": up to the end of the sentence or line.
_ANNOUNCED = re.compile(
    r"(?i)\b(?:final\s+)?answer(?:\s+is)?\s*(?::|\bis\b|=)?[*_]*\s*:?\s*(?P<text>[^\n]+?)"
    r"(?=[*_]*\s*(?:\.(?:\s|$)|\n|$|I hope))"
)
_NUMBER = re.compile(
    r"(?P<sign>[-+−]?)\s*(?P<whole>\d{1,3}(?:(?:,|\{,\}|\\,|\\!,|,\\!)\d{3})+|\d*)(?P<decimals>\.\d+)?(?P<percent>\s*(?:\\?%|percent))?"
)
_RATIO = re.compile(r"([-+−]?)\s*(\d+)\s*/\s*(\d+)")
_LATEX_RATIO = re.compile(r"([-+−]?)\s*\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_MIXED = re.compile(r"([-+−]?)\s*(\d+)\s*\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_MEASURE = re.compile(r"(?P<value>\S+(?: ?\\frac\S+)?)\s+(?P<unit>[A-Za-z][A-Za-z./^{}23 -]+)")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\\circ\}?|°)$")
# Words that change the value of what stands before them.
_NOT_UNITS = {"and", "or", "to", "plus", "minus", "times", "over", "pi"}
_NOT_UNITS |= {"hundred", "thousand", "million", "billion", "dozen"}
# Wrappers that say nothing about the value.
_DRESSING = re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])|\\[,;:! ]|~")
_TEXT = re.compile(r"\\(?:text|mbox|textbf|textrm|mathrm|mathbf|textit|textnormal)\s*\{([^{}]*)\}")


def build(config: MathConfig) -> Callable[[Completion], float]:
    """The reward of a configuration.

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    require("math_verify", "rl")
    # They warn of every expression that they cannot read; a policy in training writes thousands of these.
    for name in ("math_verify", "latex2sympy2_extended", "sympy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def reward(completion: Completion) -> float:
        answer = final_answer(completion.answer, config.where)
        if answer is None or len(answer) > config.max_characters:
            return 0.0
        golds = (gold_answer(gold) for gold in right_answers(completion.prompt, config.key))
        return float(any(equal(gold, answer, seconds=config.cpu_seconds) for gold in golds))

    return reward


def final_answer(response: str, where: str = "auto") -> str | None:
    """The answer that a response ends in; None when it gives none.

    Args:
        response: The model's last turn.
        where: ``boxed``, ``hashes`` or ``auto``, as `MathConfig.where`.
    """
    if where in ("auto", "boxed"):
        found = last_boxed(response)
        if found is not None or where == "boxed":
            return found
    hashes = response.rfind("####")
    if hashes >= 0 or where == "hashes":
        line = response[hashes + 4 :].strip().split("\n")[0] if hashes >= 0 else ""
        return line or None
    announced = [match.group("text") for match in _ANNOUNCED.finditer(response)]
    return announced[-1] if announced else _last_expression(response)


def gold_answer(gold: str) -> str:
    r"""The answer alone, out of a whole solution (``... #### 42``, ``... \boxed{42}``) or as it is."""
    for where in ("boxed", "hashes"):
        found = final_answer(gold, where)
        if found is not None:
            return found
    return gold


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{}`` or ``\fbox{}``; braces may be nested."""
    starts = [match.end() for match in re.finditer(r"\\f?box(?:ed)?\s*\{", text)]
    for start in reversed(starts):
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0) if text[place - 1] != "\\" else 0
            if depth == 0:
                return text[start:place].strip()
    bare = re.findall(r"\\boxed\s+([^\s$.]+)", text)
    return bare[-1] if bare else None


def _last_expression(text: str) -> str | None:
    """The last formula between dollars or brackets, or the last number, whichever ends later."""
    formulas = list(
        re.finditer(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\\d])\$([^$\n]+?)(?<!\\)\$", text, re.DOTALL)
    )
    numbers = list(re.finditer(r"(?<![\w.])[-−]?\$?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?(?:\s*\\?%)?", text))
    last = max([*formulas, *numbers], key=lambda match: (match.end(), -match.start()), default=None)
    if last is None:
        return None
    inside = [group for group in last.groups() if group is not None]
    return (inside[0] if inside else last.group()).strip().rstrip(",")


def equal(gold: str, answer: str, seconds: float = 5.0) -> bool:
    """Whether two answers are the same: as text, as numbers, else as expressions (math-verify).

    Args:
        gold: The right answer, number or LaTeX.
        answer: The one to judge; longer lists, wrong units of a bare number and the like follow math-verify.
        seconds: CPU time that math-verify may take; must be called in a main thread.
    """
    plain_gold, plain_answer = plain(gold), plain(answer)
    if plain_gold == plain_answer:
        return bool(plain_gold)
    (first, first_unit), (second, second_unit) = measure(plain_gold), measure(plain_answer)
    if first is not None and second is not None:
        return _same_number(first, second) and (not first_unit or not second_unit or first_unit == second_unit)
    return expressions_equal(gold, answer, seconds)


def plain(text: str) -> str:
    r"""An answer without dressing: dollars, spacing, ``\text``, a final full stop."""
    text = text.strip().strip("*").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)]
    text = _TEXT.sub(lambda match: f" {match[1]} ", text)
    text = _DRESSING.sub(lambda match: "" if match[0] != "\\ " else " ", text)
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("−", "-").replace("\\$", "")
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip()


def measure(text: str) -> tuple[tuple[Fraction, bool] | None, str]:
    r"""A plain number as of `number`, and the unit after it in one form; ``18 dollars``, ``5 cm^2``, ``90^\circ``."""
    value = number(_DEGREES.sub("", text))
    match = _MEASURE.fullmatch(text) if value is None else None
    if match is None or _NOT_UNITS & set(match["unit"].lower().split()):
        return value, ""
    return number(match["value"]), match["unit"].lower().removesuffix("s")


def number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a plain number or ratio of integers, and whether it is in percent; None for all else."""
    text = text.lstrip("$€£¥").strip() if text[:1] in "$€£¥" else text
    text = re.sub(r"^([-+])\s*[$€£¥]\s*", r"\1", text)
    match = _NUMBER.fullmatch(text)
    if match and (match["whole"] or match["decimals"]):
        whole = re.sub(r"\D", "", match["whole"])
        value = Fraction((whole or "0") + (match["decimals"] or ""))
        return (-value if match["sign"] == "-" else value), bool(match["percent"])
    for pattern in (_RATIO, _LATEX_RATIO, _MIXED):
        match = pattern.fullmatch(text)
        if match:
            sign, *parts = [group for group in match.groups() if group is not None]
            return _ratio(sign, [int(part) for part in parts])
    return None


def _ratio(sign: str, parts: list[int]) -> tuple[Fraction, bool] | None:
    *whole, top, bottom = parts
    if bottom == 0:
        return None
    value = sum(whole) + Fraction(top, bottom)
    return (-value if sign == "-" else value), False


def _same_number(gold: tuple[Fraction, bool], answer: tuple[Fraction, bool]) -> bool:
    """Equal values; a ratio and its decimals to six places; a percentage with or without its sign, or as a share."""
    candidates = [answer[0]]
    if gold[1] != answer[1]:
        candidates.append(answer[0] / 100 if answer[1] else answer[0] * 100)
    return any(_close(gold[0], value) for value in candidates)


def _close(gold: Fraction, value: Fraction) -> bool:
    if gold == value:
        return True
    exact = [_terminates(item) for item in (gold, value)]
    # 0.333333 stands for 1/3; two finite decimals are equal or not.
    return not all(exact) and math.isclose(gold, value, rel_tol=0.0, abs_tol=5e-7 if abs(gold) >= 1e-3 else 0.0)


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def expressions_equal(gold: str, answer: str, seconds: float = 5.0) -> bool:
    """Whether two LaTeX or plain expressions are equal by math-verify (sympy).

    Args:
        gold: The right answer.
        answer: The one to judge.
        seconds: CPU time after which they are not equal; must be called in a main thread.
    """
    from math_verify import verify

    try:
        with cpu_limit(seconds):
            golds, answers = _parsed(gold), _parsed(answer)
            # Its own time limits are of the wall clock: on a busy machine right answers would become wrong.
            return bool(golds and answers and verify(list(golds), list(answers), timeout_seconds=None))
    except _OutOfTimeError:
        return False


# The rollouts of a group share their right answer, and parsing is what costs (about 25 ms).
@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[Any, ...]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    inner = text.strip().strip("$") if "\\$" not in text else text
    settings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return tuple(parse(f"\\boxed{{{inner}}}", settings, parsing_timeout=None))


class _OutOfTimeError(BaseException):
    """Not an Exception, which sympy's and math-verify's own code catches and goes on."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Interrupt the body after so much CPU time of this process; main thread only (it works by a signal)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
