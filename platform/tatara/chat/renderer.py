"""Conversations as tokens: special tokens come from the template alone, and weights from who said what."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tatara.chat.jinja import Messages
from tatara.chat.segments import fill, split
from tatara.chat.template import ChatTemplate
from tatara.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PROBE = ({"role": "user", "content": "What is 2 + 3?\n "}, {"role": "assistant", "content": " 五 is 5."})
_BEFORE = ("user", "assistant")


class Renderer:
    """Turns conversations into tokens with the chat template of a tokenizer.

    A message is tokenised by itself, apart from what the template writes around it: a prompt is a prefix of the
    conversation it begins, and text that looks like a special token stays text.
    """

    def __init__(self, directory: str | Path, template: ChatTemplate | None = None) -> None:
        """Open a tokenizer.

        Args:
            directory: Holds ``tokenizer.json`` and, unless one is given, a chat template.
            template: The template to use instead of the directory's.

        Raises:
            ArtifactError: There is no chat template, or its files do not belong together.
            ConfigError: The tokenizer lacks special tokens of the template, or changes text; or the template cannot
                be told apart from messages.
        """
        self.directory = Path(directory)
        self.template = template or ChatTemplate.load(directory)
        self._tokenizer, self._plain = _open(self.directory), _open(self.directory)
        self._plain.encode_special_tokens = True
        self._check_tokens()
        self.stop_token_ids: tuple[int, ...] = tuple(self._id(token) for token in self.template.stop_tokens)
        self._shapes: dict[tuple[tuple[str, ...], bool], tuple[str, ...]] = {}
        self._literals: dict[str, list[int]] = {}
        self._check_probe()

    def prompt_ids(self, messages: Messages) -> list[int]:
        """A conversation up to the assistant's next turn, with the header of that turn.

        Raises:
            DataError: The last message is the assistant's, or the template refuses the conversation.
        """
        if not messages or messages[-1]["role"] == "assistant":
            raise DataError("a prompt must end with a message that is not the assistant's: leave the answer out")
        literals, contents = self._parts(messages, generation=True)
        ids = list(self._literal(literals[0]))
        for content, after in zip(contents, literals[1:], strict=True):
            ids += self._plain.encode(content, add_special_tokens=False).ids
            ids += self._literal(after)
        return ids

    def conversation(self, messages: Messages) -> tuple[list[int], list[float]]:
        """A whole conversation, and how much each token counts as a target.

        An assistant's message weighs 1, or what its ``weight`` says, on its own tokens and the stop token after them;
        everything else weighs 0.

        Returns:
            Token ids and weights, both ``[tokens]``.

        Raises:
            DataError: The template refuses the conversation, or shows its messages changed.
        """
        literals, contents = self._parts(messages, generation=False)
        ids = list(self._literal(literals[0]))
        weights = [0.0] * len(ids)
        for message, content, after in zip(messages, contents, literals[1:], strict=True):
            said = self._plain.encode(content, add_special_tokens=False).ids
            follows = self._literal(after)
            weight = float(message.get("weight", 1)) if message["role"] == "assistant" else 0.0
            if weight:
                self._check_stop(follows)
            ids += said + follows
            weights += [weight] * len(said) + [weight, *[0.0] * (len(follows) - 1)] if follows else []
        return ids, weights

    def reply_ids(self, messages: Messages) -> list[int]:
        """What follows the stop token of a turn that the assistant has finished.

        Args:
            messages: What the environment says: none of them the assistant's.

        Returns:
            Tokens up to and with the header of the assistant's next turn.

        Raises:
            DataError: The template refuses the messages.
        """
        before = [{"role": role, "content": ""} for role in _BEFORE]
        literals, contents = self._parts([*before, *messages], generation=True)
        after_stop = self._literal(literals[len(_BEFORE)])
        self._check_stop(after_stop)
        ids = after_stop[1:]
        for content, after in zip(contents[len(_BEFORE) :], literals[len(_BEFORE) + 1 :], strict=True):
            ids += self._plain.encode(content, add_special_tokens=False).ids
            ids += self._literal(after)
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Tokens as text; ``special=False`` leaves special tokens out, as a reader of answers wants."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def _parts(self, messages: Messages, generation: bool) -> tuple[tuple[str, ...], list[str]]:
        """What the template writes around the messages, and the messages as it shows them."""
        shape = tuple(str(message["role"]) for message in messages)
        name = self.template.name
        if (shape, generation) not in self._shapes:
            self._shapes[shape, generation] = split(lambda each: self.template.render(each, generation), shape, name)
        literals = self._shapes[shape, generation]
        text = self.template.render(messages, generation)
        contents = fill(literals, [message["content"] for message in messages], text)
        if contents is None:
            raise DataError(
                f"the chat template {name} changes what messages say, so their tokens cannot be told apart in "
                f"{text[:80]!r}: take llama3 or chatml, or a template that writes content as it is"
            )
        return literals, contents

    def _literal(self, text: str) -> list[int]:
        """Tokens of what the template writes itself, special tokens as single ids."""
        if text not in self._literals:
            self._literals[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return list(self._literals[text])

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        assert number is not None, token
        return int(number)

    def _check_stop(self, follows: Sequence[int]) -> None:
        if not follows or follows[0] not in self.stop_token_ids:
            raise ConfigError(
                f"the chat template {self.template.name} does not end the assistant's turn with "
                f"{' or '.join(self.template.stop_tokens)}: let it follow the content of every assistant message"
            )

    def _check_tokens(self) -> None:
        wanted = dict.fromkeys([*self.template.special_tokens, *self.template.stop_tokens])
        missing = [token for token in wanted if self._tokenizer.token_to_id(token) is None]
        if missing:
            listed = ", ".join(f'"{token}"' for token in missing)
            raise ConfigError(
                f"the tokenizer in {self.directory} lacks special tokens of the chat template {self.template.name}: "
                f"make one with them, tokenize --special_tokens '[{listed}]'"
            )
        for token in wanted:
            one = self._tokenizer.encode(token, add_special_tokens=False).ids == [self._id(token)]
            if not one or self._id(token) in self._plain.encode(token, add_special_tokens=False).ids:
                raise ConfigError(
                    f"{token} of the chat template {self.template.name} is not a special token of the tokenizer in "
                    f'{self.directory}, so a message could spell it: set "special": true for it in tokenizer.json'
                )

    def _check_probe(self) -> None:
        """That text survives the tokenizer, and that what is asked with is what is trained with."""
        ids, _ = self.conversation(_PROBE)
        text, said = self.template.render(_PROBE), self.decode(ids)
        if said != text:
            raise ConfigError(
                f"the tokenizer in {self.directory} does not give back what the chat template {self.template.name} "
                f"renders ({said[:60]!r} for {text[:60]!r}): a byte-level tokenizer is needed"
            )
        asked = self.prompt_ids(_PROBE[:1])
        if ids[: len(asked)] != asked:
            raise ConfigError(
                f"the chat template {self.template.name} asks for an answer with another header than answers have "
                f"({self.decode(asked)[-60:]!r}): make add_generation_prompt write the header of assistant messages"
            )


def _open(directory: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the tokenizer {path}: {error.strerror}") from None
    except Exception as error:
        # The tokenizers package raises bare exceptions.
        raise ConfigError(f"cannot read the tokenizer {path}: {' '.join(str(error).split())[:200]}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
