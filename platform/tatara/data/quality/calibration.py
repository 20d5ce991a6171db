"""Logits to probabilities that mean what they say, and how well a classifier does on samples it has not seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

_BINS = 15


def calibrate(logits: Floats, labels: Labels, importance: Floats) -> tuple[float, float]:
    """Slope and intercept that minimise the cross-entropy of ``slope * logits + intercept``.

    For two classes Platt's scaling with his targets (Platt 1999; Newton's method as in Lin, Lin and Weng 2007); for
    more, one temperature (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    Args:
        logits: ``[samples, outputs]``.
        labels: ``[samples]``.
        importance: Weight of each sample: ``[samples]``.
    """
    return (
        _platt(logits[:, 0], labels, importance)
        if logits.shape[1] == 1
        else (_temperature(logits, labels, importance), 0.0)
    )


def _platt(logits: Floats, labels: Labels, importance: Floats) -> tuple[float, float]:
    counts = np.bincount(labels, minlength=2)
    targets = np.where(labels == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1)

    def loss(parameters: Floats) -> float:
        scores = design @ parameters
        return float(np.sum(importance * (np.logaddexp(0, scores) - targets * scores)))

    parameters = np.array([1.0, 0.0])
    for _ in range(100):
        predicted = 1 / (1 + np.exp(-np.clip(design @ parameters, -500, 500)))
        gradient = design.T @ (importance * (predicted - targets))
        curvature = design.T @ (design * (importance * predicted * (1 - predicted))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-8 and loss(parameters - size * step) > loss(parameters) - 1e-4 * size * gradient @ step:
            size /= 2
        parameters = parameters - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return float(parameters[0]), float(parameters[1])


def _temperature(logits: Floats, labels: Labels, importance: Floats) -> float:
    """Factor of the logits, by golden section over its logarithm: the loss is unimodal in it."""

    def loss(exponent: float) -> float:
        scaled = logits * np.exp(exponent)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        own = scaled[np.arange(labels.size), labels]
        return float(np.sum(importance * (np.log(np.exp(scaled).sum(axis=1)) - own)))

    low, high = -5.0, 5.0
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def measure(probabilities: Floats, labels: Labels, classes: Sequence[str]) -> dict[str, Any]:
    """Figures on samples that were neither trained on nor calibrated with.

    Args:
        probabilities: ``[samples, classes]``.
        labels: ``[samples]``.
        classes: Names.

    Returns:
        ``held_out`` (samples), ``accuracy``, ``ece`` (expected calibration error, 15 bins of equal width; Guo et al.
        2017, section 2), for two classes ``auc``, for more ``recall`` of each class. Classes count alike.
    """
    counts = np.bincount(labels, minlength=len(classes))
    weight = (1 / np.maximum(counts, 1))[labels]
    weight = weight / weight.sum()
    right = probabilities.argmax(axis=1) == labels
    figures: dict[str, Any] = {"held_out": int(labels.size), "accuracy": float(weight @ right)}
    if len(classes) == 2:
        figures["auc"] = auc(probabilities[:, 1], labels)
        figures["ece"] = expected_calibration_error(probabilities[:, 1], labels == 1, weight)
    else:
        figures["recall"] = {name: float(right[labels == label].mean()) for label, name in enumerate(classes)}
        figures["ece"] = expected_calibration_error(probabilities.max(axis=1), right, weight)
    return figures


def auc(scores: Floats, labels: Labels) -> float:
    """Probability that a sample of class 1 scores higher than one of class 0; ties count half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(counts) - (counts - 1) / 2
    positives = int((labels == 1).sum())
    total = middle_ranks[places][labels == 1].sum() - positives * (positives + 1) / 2
    return float(total / (positives * (labels.size - positives)))


def expected_calibration_error(confidences: Floats, right: NDArray[np.bool_], weight: Floats) -> float:
    """Mean distance between confidence and frequency, over bins of equal width."""
    bins = np.minimum((confidences * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weight * (right - confidences), minlength=_BINS)
    return float(np.abs(gaps).sum() / weight.sum())
