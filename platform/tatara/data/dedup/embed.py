"""Embeddings of texts: hashed words, or an encoder of Hugging Face."""

import importlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tatara.data.dedup.config import SemanticDedupConfig
from tatara.data.shingles import shingle_hashes
from tatara.errors import ConfigError, require

Embedding = Callable[[list[str]], NDArray[np.float32]]
DIMENSIONS = 512


def hashed(texts: list[str]) -> NDArray[np.float32]:
    """Sums of random directions of a text's words and pairs of words, ``1 + log(count)`` each: ``[texts, 512]``.

    Feature hashing (Weinberger et al. 2009, arXiv:0902.2206): word order counts little, wording much. Nothing is
    learned, so that it needs no model and is the same everywhere; an encoder knows more of meaning.
    """
    made = np.zeros((len(texts), DIMENSIONS), np.float64)
    for ngram in (1, 2):
        features, bounds = shingle_hashes(texts, ngram)
        text = np.repeat(np.arange(len(texts)), np.diff(bounds.astype(np.int64)))
        order = np.lexsort((features, text))
        features, text = features[order], text[order]
        if not len(features):
            continue
        begins = np.flatnonzero(np.concatenate(([True], (features[1:] != features[:-1]) | (text[1:] != text[:-1]))))
        weight = 1 + np.log(np.diff(np.append(begins, len(features))))
        features, text = features[begins], text[begins]
        sign = np.where(features >> np.uint64(63), -1.0, 1.0)
        np.add.at(made, (text, (features % np.uint64(DIMENSIONS)).astype(np.int64)), sign * weight)
    return made.astype(np.float32)


def load_embedding(config: SemanticDedupConfig) -> Embedding:
    """The embedding that a configuration names.

    Raises:
        ConfigError: There is no such function or model.
    """
    if config.model:
        return partial(_encode, config.model, config.max_tokens, config.batch)
    module, _, name = config.embedding.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"semantic_dedup.embedding: cannot import {config.embedding!r} ({error}); give module:function"
        ) from None
    return cast(Embedding, found)


@cache
def _encoder(path: str) -> tuple[Any, Any]:
    transformers = require("transformers", "data")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"semantic_dedup.model: {path} is no encoder of Hugging Face: {reason}") from None
    return tokenizer, model.eval()


def _encode(path: str, max_tokens: int, batch: int, texts: list[str]) -> NDArray[np.float32]:
    """Means of an encoder's last hidden states: ``[texts, dimensions]``.

    A batch always has the same number of rows and one of few lengths, so that a text's numbers do not depend on which
    others happen to be with it.
    """
    torch = require("torch", "data")
    tokenizer, model = _encoder(path)
    encoded = [tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] or [0] for text in texts]
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(encoded):
        by_length.setdefault(max(8, 1 << (len(ids) - 1).bit_length()), []).append(index)
    found: NDArray[np.float32] | None = None
    for length, members in sorted(by_length.items()):
        for start in range(0, len(members), batch):
            rows = members[start : start + batch]
            ids = torch.zeros((batch, min(length, max_tokens)), dtype=torch.long)
            mask = torch.zeros_like(ids)
            mask[len(rows) :, 0] = 1
            for row, index in enumerate(rows):
                ids[row, : len(encoded[index])] = torch.tensor(encoded[index])
                mask[row, : len(encoded[index])] = 1
            with torch.inference_mode():
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[:, :, None].to(states.dtype)
            means = ((states * weights).sum(1) / weights.sum(1)).float().numpy()
            if found is None:
                found = np.zeros((len(texts), means.shape[1]), np.float32)
            found[rows] = means[: len(rows)]
    return found if found is not None else np.zeros((0, model.config.hidden_size), np.float32)


def quantise(vectors: NDArray[Any]) -> NDArray[np.int16]:
    """Unit vectors in integers of 16 bits, so that sums of products are exact whatever the order: ``[texts, d]``."""
    values = np.nan_to_num(np.asarray(vectors, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0)
    return np.rint(values / np.where(largest > 0, largest, 1) * 32767).astype(np.int16)


def embed(texts: Sequence[str], embedding: Embedding) -> NDArray[np.int16]:
    """Quantised embeddings of some texts.

    Raises:
        ConfigError: The function does not return a row for each text.
    """
    found = np.asarray(embedding(list(texts)))
    if found.ndim != 2 or len(found) != len(texts):
        raise ConfigError(
            f"semantic_dedup.embedding: got an array of shape {found.shape} for {len(texts)} texts; it must be "
            "[texts, dimensions]"
        )
    return quantise(found)
