"""What a chat template writes around messages: found by rendering marks in their place."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from tatara.chat.jinja import Messages
from tatara.errors import ConfigError

# Characters for private use, which no template has a reason to write.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


def mark(roles: Sequence[str]) -> list[dict[str, Any]]:
    """Messages of some roles whose content is a mark with their number."""
    return [{"role": role, "content": f"{_OPEN}{number}{_CLOSE}"} for number, role in enumerate(roles)]


def split(render: Callable[[Messages], str], roles: Sequence[str], name: str) -> tuple[str, ...]:
    """What a template writes before the first message, between messages, and after the last.

    Args:
        render: The template.
        roles: Of the messages.
        name: What to call the template in errors.

    Returns:
        One text more than there are messages.

    Raises:
        ConfigError: It does not write every message once and in order.
        DataError: It refuses a conversation of these roles.
    """
    parts = _MARK.split(render(mark(roles)))
    if parts[1::2] != [str(number) for number in range(len(roles))]:
        raise ConfigError(
            f"the chat template {name} does not write the content of every message of {', '.join(roles)} once and in "
            "order, so its tokens cannot be told apart: take llama3 or chatml, or change the template"
        )
    return tuple(parts[::2])


def fill(literals: Sequence[str], contents: Sequence[str], text: str) -> list[str] | None:
    """The contents as a rendering has them: as they are, or without white space around them.

    Args:
        literals: Of `split`.
        contents: Of the messages.
        text: What the template made of the very messages.

    Returns:
        Contents with which the literals become the text, byte by byte; None if there are none.
    """
    place = len(literals[0])
    found: list[str] = []
    for content, following in zip(contents, literals[1:], strict=True):
        for shown in (content, content.strip()):
            if text.startswith(shown + following, place):
                break
        else:
            return None
        found.append(shown)
        place += len(shown) + len(following)
    whole = literals[0] + "".join(shown + after for shown, after in zip(found, literals[1:], strict=True))
    return found if whole == text else None
