"""A linear classifier over hashed n-grams, as fast as fastText: trained, calibrated, measured, stored."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tatara import storage
from tatara.data.quality.calibration import calibrate, measure
from tatara.data.quality.config import TrainingConfig
from tatara.data.quality.features import Features, hashed
from tatara.errors import DataError

Floats = NDArray[np.float64]

_FORMAT = 1


@dataclass(frozen=True)
class TextModel:
    """A trained classifier.

    Attributes:
        classes: Names; of two, the second is the one whose probability the single output gives.
        weights: One row for each feature: ``[buckets, outputs]``, one output for two classes.
        bias: ``[outputs]``.
        slope: Factor of the logits that makes them calibrated.
        intercept: Added to them after, for two classes.
        max_characters: Characters of a text that are looked at.
        metrics: What the held-out samples say of it.
    """

    classes: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    slope: float
    intercept: float
    max_characters: int
    metrics: dict[str, Any]

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """Calibrated probability of each class: ``[texts, classes]``."""
        bits = int(self.weights.shape[0]).bit_length() - 1
        found, ends = hashed([text[: self.max_characters] for text in texts], bits)
        logits = _all_logits(found, ends, self.weights, self.bias)
        # Rounded, because the last bits may depend on the processor and on the number of texts.
        return probabilities(logits * self.slope + self.intercept).round(9)

    def save(self) -> bytes:
        """The model as the content of a ``.npz`` file."""
        buffer = io.BytesIO()
        about = {
            "format": _FORMAT,
            "classes": self.classes,
            "slope": self.slope,
            "intercept": self.intercept,
            "max_characters": self.max_characters,
            "metrics": self.metrics,
        }
        used = np.flatnonzero(self.weights.any(axis=1)).astype(np.int32)
        np.savez_compressed(
            buffer,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            buckets=np.int64(self.weights.shape[0]),
            used=used,
            weights=self.weights[used],
            bias=self.bias,
        )
        return buffer.getvalue()


def load_model(url: str) -> TextModel:
    """Read a model that `TextModel.save` has written.

    Raises:
        DataError: The file is something else.
        StorageError: It cannot be read.
    """
    raw = storage.read_bytes(url)
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            if about["format"] != _FORMAT:
                raise DataError(
                    f"model {url}: format {about['format']}, but this version reads {_FORMAT}; train it again"
                )
            weights = np.zeros((int(stored["buckets"]), stored["bias"].size), np.float32)
            weights[stored["used"]] = stored["weights"]
            bias = stored["bias"]
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise DataError(f"model {url}: not a model of the steps quality or topics ({error})") from None
    return TextModel(
        tuple(about["classes"]),
        weights,
        bias,
        about["slope"],
        about["intercept"],
        about["max_characters"],
        about["metrics"],
    )


def probabilities(logits: Floats) -> Floats:
    """Logits, ``[texts, outputs]``, to probabilities, ``[texts, classes]``: logistic for one output, else softmax."""
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def train(samples: Mapping[str, Mapping[bytes, str]], config: TrainingConfig) -> TextModel:
    """Train, calibrate and measure a classifier.

    Which samples are held out depends on their own hashes alone. Classes count alike, however many samples they have.

    Args:
        samples: Class to hash to text. Of two classes, the second is the one that is asked for.
        config: How.

    Returns:
        The model, the same for the same samples.
    """
    classes = tuple(samples)
    bits = max(10, (config.buckets - 1).bit_length())
    # In the order of hashes, so that the names of classes decide about nothing but ties.
    rows = sorted((digest, label, text) for label, name in enumerate(classes) for digest, text in samples[name].items())
    found, ends = hashed([text[: config.max_characters] for _, _, text in rows], bits)
    labels = np.array([label for _, label, _ in rows], np.int64)
    draws = np.array([int.from_bytes(digest[:7], "big") for digest, _, _ in rows]) / float(1 << 56)
    fit, tune = draws >= config.held_out, draws < config.held_out / 2
    for fold, what in ((fit, "train on"), (tune, "calibrate with"), (~fit & ~tune, "measure with")):
        missing = [name for label, name in enumerate(classes) if not np.any(labels[fold] == label)]
        if missing:
            raise DataError(f"samples of '{missing[0]}': none is left to {what}; give more, or raise training.held_out")
    importance = _importance(labels, fit, len(classes))
    weights, bias = _fit(found, ends, labels, np.flatnonzero(fit), importance, bits, config)
    logits = _all_logits(found, ends, weights, bias)
    slope, intercept = calibrate(logits[tune], labels[tune], _importance(labels, tune, len(classes))[tune])
    test = ~fit & ~tune
    metrics = measure(probabilities(logits[test] * slope + intercept), labels[test], classes)
    metrics["samples"] = {name: int(np.sum(labels == label)) for label, name in enumerate(classes)}
    metrics["trained_on"] = int(fit.sum())
    return TextModel(classes, weights, bias, slope, intercept, config.max_characters, metrics)


def _importance(labels: NDArray[np.int64], fold: NDArray[np.bool_], classes: int) -> Floats:
    """Weights under which all classes of a fold count alike: ``[samples]``."""
    counts = np.bincount(labels[fold], minlength=classes)
    return np.asarray(fold.sum() / (classes * counts))[labels]


def _fit(
    found: Features,
    ends: NDArray[np.int64],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    importance: Floats,
    bits: int,
    config: TrainingConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    classes = int(labels.max()) + 1
    weights = np.zeros((1 << bits, 1 if classes == 2 else classes), np.float32)
    squares = np.full(weights.shape, 1e-6, np.float32)
    bias = np.zeros(weights.shape[1], np.float32)
    order = np.random.default_rng(config.seed)
    for epoch in range(config.epochs):
        rate = np.float32(config.learning_rate * (1 - epoch / config.epochs))
        _epoch(found, ends, labels, importance, order.permutation(rows), weights, squares, bias, rate)
    return weights, bias


@numba.njit(cache=True, nogil=True)
def _logits(found, weights, bias):  # type: ignore[no-untyped-def]
    """Sum of the features' weights over the root of their number, plus bias: ``[outputs]``."""
    outputs = bias.size
    sums = np.zeros(outputs, np.float64)
    for feature in found:
        for output in range(outputs):
            sums[output] += weights[feature, output]
    return sums / np.sqrt(max(found.size, 1)) + bias


@numba.njit(cache=True, nogil=True)
def _all_logits(found, ends, weights, bias):  # type: ignore[no-untyped-def]
    """``[texts, outputs]``."""
    logits = np.empty((ends.size, bias.size), np.float64)
    for row in range(ends.size):
        logits[row] = _logits(found[ends[row - 1] if row else 0 : ends[row]], weights, bias)
    return logits


@numba.njit(cache=True, nogil=True)
def _epoch(joined, ends, labels, importance, order, weights, squares, bias, rate):  # type: ignore[no-untyped-def]
    """One pass of AdaGrad over the samples, cross-entropy loss."""
    outputs = bias.size
    for row in order:
        found = joined[ends[row - 1] if row else 0 : ends[row]]
        errors = _logits(found, weights, bias)
        if outputs == 1:
            errors[0] = 1 / (1 + np.exp(-errors[0])) - labels[row]
        else:
            errors = np.exp(errors - errors.max())
            errors /= errors.sum()
            errors[labels[row]] -= 1
        errors *= importance[row]
        scale = 1 / np.sqrt(max(found.size, 1))
        for output in range(outputs):
            gradient = np.float32(errors[output] * scale)
            square = gradient * gradient
            for feature in found:
                squares[feature, output] += square
                weights[feature, output] -= rate * gradient / np.sqrt(squares[feature, output])
            bias[output] -= 0.1 * rate * errors[output]
