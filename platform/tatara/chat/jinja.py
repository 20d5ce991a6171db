"""Jinja as transformers and vLLM set it up for chat templates."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tatara.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jinja2 import Template

Messages = Sequence[Mapping[str, Any]]


@functools.lru_cache(maxsize=16)
def compiled(text: str) -> "Template":
    """A template, ready to render.

    The environment is that of ``transformers.utils.chat_template_utils``, but for the date: a template that renders
    the day it is rendered on would never be trained on as it is served.

    Raises:
        ConfigError: It is not Jinja.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_block(), "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(text)
    except jinja2.TemplateError as error:
        raise ConfigError(f"the chat template is not valid Jinja: {_line(error)}") from None


def render(text: str, name: str, messages: Messages, generation: bool, named: Mapping[str, str]) -> str:
    """What a template makes of a conversation.

    Args:
        text: The template.
        name: What to call it in errors.
        messages: Each with ``role`` and ``content``.
        generation: Whether the header of the assistant's next turn comes at the end.
        named: ``bos_token`` and others that the template asks for.

    Raises:
        ConfigError: It is not Jinja.
        DataError: The template refuses the conversation.
    """
    import jinja2

    template = compiled(text)
    given = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        return template.render(messages=given, add_generation_prompt=generation, tools=None, documents=None, **named)
    except (jinja2.TemplateError, TypeError) as error:
        raise DataError(f"the chat template {name} refuses a conversation: {_line(error)}") from None


def variables(text: str) -> set[str]:
    """Names that a template expects to be given."""
    from jinja2 import meta

    environment = compiled(text).environment
    return meta.find_undeclared_variables(environment.parse(text))


def _generation_block() -> Any:
    """The tag ``generation``, with which some templates mark what the assistant says; it renders what is inside."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationBlock(Extension):
        tags = {"generation"}  # noqa: RUF012 - jinja2's own way

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return GenerationBlock


def _raise(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> str:
    # Jinja's own escapes what HTML would read.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=default
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
