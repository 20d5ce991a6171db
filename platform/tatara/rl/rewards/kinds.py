"""The kinds of rewards and what each is configured by."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from tatara.config import Config, operational


def _compiles(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


def _extracts(value: str) -> str:
    found = re.compile(_compiles(value)).groups
    if found > 1:
        raise ValueError(f"has {found} groups where one is read; write the others as (?:...)")
    return value


Pattern = Annotated[str, AfterValidator(_compiles)]
Extraction = Annotated[str, AfterValidator(_extracts)]


class RewardConfig(Config):
    """What all rewards have."""

    kind: str
    """Which reward this is."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Factor in the sum; negative makes it a penalty, 0 logs it only."""
    scale: float = Field(default=1.0, allow_inf_nan=False)
    """Factor of the value before it is clipped and logged."""
    clip: tuple[float, float] | None = None
    """Least and greatest value after scaling."""
    timeout: float = Field(default=10.0, gt=0)
    """Seconds that one value may take."""

    @field_validator("clip")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] <= value[1]:
            raise ValueError(f"the least value comes first, not {list(value)}")
        return value

    def transform(self, value: float) -> float:
        """A value after ``scale`` and ``clip``."""
        scaled = value * self.scale
        return scaled if self.clip is None else min(max(scaled, self.clip[0]), self.clip[1])


class MathConfig(RewardConfig):
    """1 when the final answer equals the prompt's mathematically, else 0."""

    kind: Literal["math"] = "math"
    """Which reward this is."""
    key: str = "answer"
    """Metadata that holds the right answer: a number, LaTeX, or a whole solution that ends in ``#### 42`` or
    ``\\boxed{42}``. A list is a choice of right answers."""
    where: Literal["auto", "boxed", "hashes"] = "auto"
    """Where the response must give its answer: the last ``\\boxed{}``; after ``####``; or any of these, else what
    follows "the answer is", else the last expression."""
    max_characters: int = Field(default=400, ge=1)
    """An answer longer than this is wrong."""
    cpu_seconds: float = Field(default=5.0, gt=0)
    """CPU time that comparing two expressions may take; what takes longer is not equal."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds after which the process is ended, when it is stuck where no signal is heard; the answer is then wrong."""


class ExactConfig(RewardConfig):
    """1 when the answer equals one of the right ones after normalisation, else 0."""

    kind: Literal["exact"] = "exact"
    """Which reward this is."""
    key: str = "answer"
    """Metadata that holds the right answer or a list of them."""
    extract: Extraction | None = None
    """Regular expression whose last match's first group (or whole) is the answer; null takes the whole last turn."""
    ignore_case: bool = True
    """Whether capitals equal small letters."""
    ignore_punctuation: bool = False
    """Whether punctuation is left out."""
    ignore_articles: bool = False
    """Whether a, an and the are left out."""


class RegexConfig(RewardConfig):
    """1 when a pattern is found in the model's last turn, else 0."""

    kind: Literal["regex"] = "regex"
    """Which reward this is."""
    pattern: Pattern | None = None
    """The regular expression (Python's). ``{answer}`` stands for the metadata of that name, taken literally."""
    key: str | None = None
    """Metadata that holds the prompt's own pattern, instead of ``pattern``."""
    ignore_case: bool = False
    """Whether capitals equal small letters."""

    @model_validator(mode="after")
    def _one_source(self) -> "RegexConfig":
        if (self.pattern is None) == (self.key is None):
            raise ValueError("give either pattern or key")
        return self


class FormatConfig(RewardConfig):
    """1 when the whole response matches a pattern, else 0."""

    kind: Literal["format"] = "format"
    """Which reward this is."""
    pattern: Pattern
    """The regular expression (Python's; ``.`` matches line ends too) that must match from beginning to end."""


class LengthConfig(RewardConfig):
    """0 for a response of the wanted length, falling to -1 outside of it (DAPO's soft punishment, section 3.4)."""

    kind: Literal["length"] = "length"
    """Which reward this is."""
    unit: Literal["tokens", "characters"] = "tokens"
    """What is counted: tokens that the model sampled, or characters of the response."""
    minimum: int = Field(default=0, ge=0)
    """Shortest length without a penalty."""
    maximum: int | None = Field(default=None, ge=1)
    """Longest length without a penalty; null is no limit."""
    fade: int = Field(default=1, ge=1)
    """Over how many units outside the window the penalty grows from 0 to 1."""

    @model_validator(mode="after")
    def _window(self) -> "LengthConfig":
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        return self


class JsonConfig(RewardConfig):
    """1 when the answer is JSON that obeys a schema, else 0."""

    kind: Literal["json"] = "json"
    """Which reward this is."""
    where: Literal["whole", "block"] = "block"
    """``whole``: the last turn is nothing but JSON; ``block``: its last ```` ```json ```` block, else all of it."""
    required: tuple[str, ...] = ()
    """Keys that an object must have."""
    json_schema: dict[str, Any] | None = None
    """JSON schema (draft 2020-12) that it must obey; needs the package jsonschema."""
    key: str | None = None
    """Metadata that holds the prompt's own schema, instead of ``json_schema``."""


class CodeConfig(RewardConfig):
    """Share of the prompt's unit tests that the answer's program passes in the sandbox."""

    kind: Literal["code"] = "code"
    """Which reward this is."""
    key: str = "tests"
    """Metadata that holds the tests: a list of ``assert`` statements, a list of ``{stdin, stdout}``, or a mapping
    ``{inputs: [...], outputs: [...]}``."""
    setup_key: str = "setup"
    """Metadata with code that runs before the tests, after the program; may be absent."""
    score: Literal["all", "fraction"] = "all"
    """``all``: 1 when every test passes; ``fraction``: the share that does."""
    timeout: float = Field(default=20.0, gt=0)
    """Seconds that all tests of one response may take."""
    memory_bytes: int = Field(default=512 << 20, ge=32 << 20)
    """Memory of the sandbox in bytes."""
    packages: bool = False
    """Whether programs see the installed packages, not only the standard library."""


class PythonConfig(RewardConfig):
    """A user's function of a `tatara.rl.rewards.completion.Completion`; it returns a number."""

    kind: Literal["python"] = "python"
    """Which reward this is."""
    function: str
    """``module:function`` or ``path/file.py:function``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments passed besides the completion."""


class RewardModelConfig(RewardConfig):
    """The score of a sequence-classification model with one label."""

    kind: Literal["reward_model"] = "reward_model"
    """Which reward this is."""
    model: str
    """Directory in the Hugging Face layout, with a scalar head."""
    engine: Literal["vllm", "transformers"] = operational("vllm")
    """What computes it; both give the same value for architectures that vLLM has."""
    input: Literal["tokens", "chat"] = "chat"
    """``tokens``: prompt and response as sampled, for a model with the policy's own tokenizer; ``chat``: the
    conversation through the reward model's own chat template."""
    activation: Literal["none", "sigmoid"] = "none"
    """Applied to the head's output."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest input; a longer one fails. Null takes the model's own limit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds that one batch may take."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's ``LLM``."""


class JudgeConfig(RewardConfig):
    """A language model's opinion, asked over an OpenAI-compatible HTTP interface."""

    kind: Literal["judge"] = "judge"
    """Which reward this is."""
    url: str = operational()
    """Address of the interface, up to and with ``/v1``."""
    model: str
    """Name of the model that judges."""
    template: str
    """What it is asked. ``{prompt}`` stands for the conversation, ``{response}`` for the answer, any other name in
    braces for the prompt's metadata."""
    system: str | None = None
    """System message."""
    score_pattern: Extraction = r"(?i)score\s*[:=]\s*(-?\d+(?:\.\d+)?)"
    """Regular expression whose first group in its last match is the score."""
    score_range: tuple[float, float] = (0.0, 10.0)
    """Scores that map to 0 and 1; a score outside is a failure."""
    temperature: float = Field(default=0.0, ge=0)
    """Of the judge's sampling."""
    max_tokens: int = Field(default=512, ge=1)
    """Of the judge's reply."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds that one request may take."""
    retries: int = operational(4, ge=0)
    """Times a request is sent again after a refused connection, a timeout, 429 or 5xx."""
    backoff: float = operational(0.5, ge=0)
    """Seconds before the first repetition; doubled for each further one, at most 30."""
    concurrency: int = operational(16, ge=1)
    """Requests in flight per reward worker."""
    api_key_env: str | None = operational(None)
    """Environment variable that holds the key."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's body."""

    @field_validator("score_range")
    @classmethod
    def _spread(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"the least score comes first, not {list(value)}")
        return value

    @field_validator("template")
    @classmethod
    def _asks_about_the_response(cls, value: str) -> str:
        if "{response}" not in value:
            raise ValueError("the template must contain {response}")
        return value


KINDS: dict[str, type[RewardConfig]] = {
    "math": MathConfig,
    "exact": ExactConfig,
    "regex": RegexConfig,
    "format": FormatConfig,
    "length": LengthConfig,
    "json": JsonConfig,
    "code": CodeConfig,
    "python": PythonConfig,
    "reward_model": RewardModelConfig,
    "judge": JudgeConfig,
}
