"""Text to tokens: gigatoken, and Hugging Face ``tokenizers`` as its reference."""

import functools
import json
import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tatara.errors import ConfigError

Engine = Literal["auto", "gigatoken", "huggingface"]

HARD_CASES = (
    "", " ", "\n", "\r\n\r\n  \t x", "  leading and trailing  ", "don't DON'T 'S 'll", "a\u00a0b\u3000c\u2028d\u0085e",
    "0", "1234567890" * 20, "3.14159e-10 ١٢٣٤ ²³", "<|endoftext|> <|endoftext|><|reserved_0|>", "<s></s>[INST]<unk>",
    "😀👍🏽👩\u200d👩\u200d👧\u200d👦🇯🇵", "e\u0301\u0327t\u0301 \u0301 \u0301a",
    "吾輩は猫である。名前はまだ無い。ﾊﾝｶｸ", "「日本語」、カタカナー・漢字々〆", "中文没有空格的句子，标点。",
    "한국어 띄어쓰기", "ภาษาไทยไม่มีช่องว่าง", "हिन्दी में क्षत्रिय", "العربية مع تَشْكِيل", "עברית",
    "Ünïcödé ſtraße ŒUVRE İi", "\x00\x01\x7f\ufffd\ufeff\ue000\U0010fffd",
    "def f(x):\n    return {'a': [1, 2]}  # tab\there\n\n\n", "https://example.org/a?b=c&d=%20#e",
    "==== ---- ....!!!???\n\n", "a" * 3000, " " * 300 + "x", "\n" * 100, "あ" * 500, "!?" * 500,
)  # fmt: skip
"""What tokenizers have been seen to disagree on."""


class Encoder(Protocol):
    """Turns documents into tokens, on one core; text that spells a special token stays text."""

    name: str

    def encode(self, texts: pa.LargeStringArray) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Tokens of all documents one after the other, ``[tokens]``, and of each how many, ``[documents]``."""


class _HuggingFace:
    name = "huggingface"

    def __init__(self, serialised: str) -> None:
        # A task has one CPU; the encoder's own threads would take them all.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(serialised)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: pa.LargeStringArray) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        found = self._tokenizer.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        ids = [np.array(encoding.ids, np.uint32) for encoding in found]
        return np.concatenate(ids) if ids else np.zeros(0, np.uint32), np.array([len(item) for item in ids], np.int64)


class _Gigatoken:
    name = "gigatoken"

    def __init__(self, serialised: str) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        described = json.loads(serialised)
        # Special tokens are not looked for: text that spells one must not become one. Others, such as runs of spaces
        # that a tokenizer adds, are part of how it reads text.
        described["added_tokens"] = [token for token in described.get("added_tokens") or [] if not token["special"]]
        described.update(post_processor=None, truncation=None, padding=None)
        self._tokenizer = load_hf_json(json.dumps(described))

    def encode(self, texts: pa.LargeStringArray) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        encoded = self._tokenizer.encode_batch(_awkward(texts), parallel=False)
        offsets = np.asarray(encoded.layout.offsets, np.int64)
        ids = np.asarray(encoded.layout.content.data)[offsets[0] : offsets[-1]]
        return ids, np.diff(offsets)


def _awkward(texts: pa.LargeStringArray) -> Any:
    """The same bytes as an array of awkward, which gigatoken reads without a copy."""
    import awkward

    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    letters = awkward.contents.NumpyArray(content, parameters={"__array__": "char"})
    lists = awkward.contents.ListOffsetArray(awkward.index.Index64(places), letters, parameters={"__array__": "string"})
    return awkward.Array(lists)


@functools.lru_cache(maxsize=4)
def open_encoder(serialised: str, name: str) -> Encoder:
    """An encoder of a ``tokenizer.json``; kept by the process, so that what gigatoken has seen before stays known."""
    return _Gigatoken(serialised) if name == "gigatoken" else _HuggingFace(serialised)


def choose(serialised: str, wanted: Engine, samples: Sequence[str] = ()) -> tuple[str, str | None]:
    """Decide what tokenises.

    Args:
        serialised: The ``tokenizer.json``.
        wanted: What the user asks for.
        samples: Real documents on which both must agree, besides `HARD_CASES`.

    Returns:
        The engine, and why gigatoken is not it though it might have been.

    Raises:
        ConfigError: gigatoken is asked for and cannot be used.
    """
    if wanted == "huggingface":
        return wanted, None
    reason = _objection(serialised, samples)
    if reason is None:
        return "gigatoken", None
    if wanted == "gigatoken":
        raise ConfigError(f"engine: gigatoken cannot be used: {reason}; set engine: huggingface")
    return "huggingface", reason


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _objection(serialised: str, samples: Sequence[str]) -> str | None:
    try:
        fast = open_encoder(serialised, "gigatoken")
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:
        # It raises bare exceptions; the first line says what it lacks.
        return f"gigatoken does not know this tokenizer ({_first_line(error)})"
    texts = pa.array([*HARD_CASES, *samples], pa.large_string())
    try:
        ids, lengths = fast.encode(texts)
    except Exception as error:
        return f"gigatoken fails on the sample ({_first_line(error)})"
    expected, expected_lengths = open_encoder(serialised, "huggingface").encode(texts)
    if np.array_equal(lengths, expected_lengths) and np.array_equal(ids, expected):
        return None
    ends, expected_ends = np.cumsum(lengths), np.cumsum(expected_lengths)
    for i, text in enumerate(texts.to_pylist()):
        mine = ids[ends[i] - lengths[i] : ends[i]]
        if not np.array_equal(mine, expected[expected_ends[i] - expected_lengths[i] : expected_ends[i]]):
            return f"gigatoken and Hugging Face tokenizers disagree on {text[:40]!r}"
    return None


def large_strings(texts: Sequence[str]) -> pa.LargeStringArray:
    """Texts as the array that encoders take; what UTF-8 cannot hold is replaced."""
    try:
        return pa.array(texts, pa.large_string())
    except (UnicodeEncodeError, pa.ArrowInvalid):
        return pa.array([text.encode("utf-8", "replace").decode() for text in texts], pa.large_string())
