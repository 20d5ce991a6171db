"""What rewards read of a prompt."""

from typing import Any

from tatara.errors import DataError
from tatara.rl.record import Prompt


def needed(prompt: Prompt, key: str) -> Any:
    """A value of a prompt's metadata.

    Raises:
        DataError: The prompt has none; the message names the prompt and what it has.
    """
    if prompt.metadata.get(key) is None:
        has = ", ".join(sorted(prompt.metadata)) or "nothing"
        raise DataError(f"prompt '{prompt.id}' has no '{key}' in its metadata (it has {has})")
    return prompt.metadata[key]


def right_answers(prompt: Prompt, key: str) -> tuple[str, ...]:
    """The right answers as text: the value, or each item of a list of choices.

    Raises:
        DataError: There is none.
    """
    value = needed(prompt, key)
    answers = tuple(str(item) for item in (value if isinstance(value, list | tuple) else [value]))
    if not any(answer.strip() for answer in answers):
        raise DataError(f"the '{key}' of prompt '{prompt.id}' is empty")
    return answers
