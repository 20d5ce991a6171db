"""Rewards that read the text of a response: exact match, patterns, format and length."""

import re
import string
import unicodedata
from collections.abc import Callable

from tatara.rl.rewards.completion import Completion
from tatara.rl.rewards.kinds import ExactConfig, FormatConfig, LengthConfig, RegexConfig
from tatara.rl.rewards.metadata import needed, right_answers

_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


def build_exact(config: ExactConfig) -> Callable[[Completion], float]:
    """The reward of a configuration."""
    extract = re.compile(config.extract, re.DOTALL) if config.extract else None

    def reward(completion: Completion) -> float:
        text: str | None = completion.answer
        if extract is not None:
            matches = list(extract.finditer(completion.answer))
            text = (matches[-1][1] if extract.groups else matches[-1][0]) if matches else None
        golds = right_answers(completion.prompt, config.key)
        return float(text is not None and normalise(text, config) in {normalise(gold, config) for gold in golds})

    return reward


def normalise(text: str, config: ExactConfig) -> str:
    """A text as it is compared: one form of Unicode, single spaces, and what else the configuration says."""
    text = unicodedata.normalize("NFKC", text)
    if config.ignore_case:
        text = text.casefold()
    if config.ignore_punctuation:
        text = "".join(" " if _is_punctuation(character) else character for character in text)
    if config.ignore_articles:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def build_regex(config: RegexConfig) -> Callable[[Completion], float]:
    """The reward of a configuration."""
    flags = re.DOTALL | re.MULTILINE | (re.IGNORECASE if config.ignore_case else 0)

    def reward(completion: Completion) -> float:
        if config.key is not None:
            pattern = str(needed(completion.prompt, config.key))
        else:
            pattern = _fill(config.pattern or "", completion)
        return float(re.search(pattern, completion.answer, flags) is not None)

    return reward


def _fill(pattern: str, completion: Completion) -> str:
    """A pattern with ``{name}`` replaced by the metadata of that name, taken literally; ``{2,3}`` stays."""

    def literal(match: re.Match[str]) -> str:
        return re.escape(str(needed(completion.prompt, match[1])))

    return re.sub(r"(?<!\\)\{([A-Za-z_]\w*)\}", literal, pattern)


def build_format(config: FormatConfig) -> Callable[[Completion], float]:
    """The reward of a configuration."""
    pattern = re.compile(config.pattern, re.DOTALL)
    return lambda completion: float(pattern.fullmatch(completion.response) is not None)


def build_length(config: LengthConfig) -> Callable[[Completion], float]:
    """The reward of a configuration."""

    def reward(completion: Completion) -> float:
        length = completion.sampled_tokens if config.unit == "tokens" else len(completion.response)
        over = length - config.maximum if config.maximum is not None else 0
        outside = max(config.minimum - length, over, 0)
        return -min(1.0, outside / config.fade)

    return reward
