"""The clipped policy gradient of packed rollouts, and what is measured of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tatara.errors import TrainingError
from tatara.train.feed.policy_batch import PolicyBatch
from tatara.train.policy import PolicyLoss

# e^60 is finite, and so is its gradient; what is beyond has long been clipped or has long gone wrong.
_LARGEST = 60.0

SUMS = (
    "ratio_mean",
    "clipped_low",
    "clipped_high",
    "clipped_delta",
    "kl_reference",
    "kl_behaviour",
    "entropy",
    "mismatch_mean",
    "correction_mean",
    "corrected",
)
"""Figures that are means over all trained tokens of the global batch."""
MAXIMA = ("ratio_max", "ratio_min", "mismatch_max")
"""Figures that are extremes over them; the smallest ratio travels with its sign turned."""


@dataclass(frozen=True)
class PolicyTerms:
    """This rank's part of a `PolicyBatch`, each tensor ``[rows, sequence / cp]``."""

    trained: torch.Tensor
    """Whether a target counts."""
    advantages: torch.Tensor
    behaviour: torch.Tensor
    proximal: torch.Tensor | None
    reference: torch.Tensor | None
    documents: torch.Tensor
    """Number of the rollout within the micro-batch, the same on every rank that has a part of it."""
    num_documents: int
    group: Any
    """Of the ranks that share the rows; None where each has whole ones."""

    @classmethod
    def of(cls, batch: PolicyBatch, part: Callable[[Any], torch.Tensor], group: Any) -> "PolicyTerms":
        """Take them from whole rows.

        Args:
            batch: A micro-batch.
            part: Gives this rank's part of an array.
            group: The context-parallel process group, or None.
        """
        ids = batch.document_ids + 1
        stride = int(ids.max(initial=0)) + 1
        numbers = ids + stride * np.arange(len(ids))[:, None]
        proximal, reference = batch.proximal_logprobs, batch.reference_logprobs
        return cls(
            trained=part(batch.loss_weights) != 0,
            advantages=part(batch.advantages),
            behaviour=part(batch.behaviour_logprobs),
            proximal=None if proximal is None else part(proximal),
            reference=None if reference is None else part(reference),
            documents=part(numbers),
            num_documents=stride * len(ids),
            group=group,
        )

    def document_sums(self, values: torch.Tensor) -> torch.Tensor:
        """For each token, the sum over the trained tokens of its rollout, on whatever rank; with a gradient."""
        # float64: a rollout has thousands of tokens, and their order must not matter.
        chosen = torch.where(self.trained, values, 0.0).double().reshape(-1)
        sums = chosen.new_zeros(self.num_documents).index_add(0, self.documents.reshape(-1), chosen)
        if self.group is not None:
            sums = _Sum.apply(sums, self.group)
        return sums[self.documents]


class _Sum(torch.autograd.Function):
    """A sum over ranks that every one of them goes on computing with, so that gradients come from all."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, group: Any) -> torch.Tensor:
        context.group = group
        return _reduced(values, group)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _reduced(gradient, context.group), None


def _reduced(values: torch.Tensor, group: Any) -> torch.Tensor:
    values = values.clone()
    dist.all_reduce(values, group=group)
    return values


def policy_objective(
    logprobs: torch.Tensor, entropies: torch.Tensor, terms: PolicyTerms, settings: PolicyLoss
) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """The loss of each token.

    Args:
        logprobs: ``[rows, sequence / cp]``, of the targets under the weights that are trained, with their gradient.
        entropies: The same shape, of the distributions they are from.
        terms: What else is known of the tokens.
        settings: Of the loss.

    Returns:
        Losses ``[rows, sequence / cp]`` in nats, zero where nothing is trained, and the sums and maxima that `figures`
        takes, of this rank's tokens.

    Raises:
        TrainingError: A reference is needed that the batch does not have.
    """
    trained, advantages = terms.trained, terms.advantages
    proximal = logprobs.detach() if terms.proximal is None else terms.proximal
    base = terms.behaviour if settings.ratio_base == "behaviour" else proximal
    ratio = _ratio(torch.where(trained, logprobs - base, 0.0), terms, settings)
    clipped = ratio.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    bounded = ratio if settings.delta is None else ratio.clamp(max=settings.delta)
    losses = -torch.min(bounded * advantages, clipped * advantages)

    mismatch = torch.where(trained, proximal - terms.behaviour, 0.0)
    correction, outside = _correction(mismatch, terms, settings)
    losses = losses * correction
    divergence = torch.zeros_like(losses)
    if terms.reference is not None:
        divergence = _divergence(torch.where(trained, logprobs - terms.reference, 0.0), settings.kl_estimator)
    elif settings.kl_coefficient:
        raise TrainingError("the loss has a kl_coefficient, but the batch has no reference log-probabilities")
    if settings.kl_coefficient:
        weighted = divergence * ratio if settings.kl_weighted else divergence
        losses = losses + settings.kl_coefficient * weighted
    losses = torch.where(trained, losses, 0.0)

    with torch.no_grad():
        drift = torch.where(trained, logprobs - terms.behaviour, 0.0)
        values = {
            "ratio_mean": ratio,
            "clipped_low": (ratio < 1.0 - settings.clip_low) & (advantages < 0),
            "clipped_high": (ratio > 1.0 + settings.clip_high) & (advantages > 0),
            "clipped_delta": (bounded < ratio) & (advantages < 0),
            "kl_reference": divergence,
            # From samples of the engine: the divergence of the policy from what it was.
            "kl_behaviour": _exp(drift) - 1.0 - drift,
            "entropy": entropies,
            "mismatch_mean": mismatch.abs(),
            "correction_mean": correction,
            "corrected": outside,
        }
        return losses, _measured(values, ratio, mismatch, trained)


def figures(sums: torch.Tensor, maxima: torch.Tensor, tokens: float) -> dict[str, float]:
    """What a step reports, from the totals over all micro-batches and ranks.

    Args:
        sums: In the order of `SUMS`.
        maxima: In the order of `MAXIMA`.
        tokens: Trained tokens; none gives no figures.
    """
    if not tokens:
        return {}
    extremes = dict(zip(MAXIMA, maxima.tolist(), strict=True))
    extremes["ratio_min"] = -extremes["ratio_min"]
    return dict(zip(SUMS, (sums / tokens).tolist(), strict=True)) | extremes


def _exp(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-_LARGEST, _LARGEST).exp()


def _ratio(difference: torch.Tensor, terms: PolicyTerms, settings: PolicyLoss) -> torch.Tensor:
    if settings.ratio_level == "token":
        return _exp(difference)
    lengths = terms.document_sums(torch.ones_like(difference)).clamp(min=1.0)
    return _exp((terms.document_sums(difference) / lengths).to(difference.dtype))


@torch.no_grad()
def _correction(mismatch: torch.Tensor, terms: PolicyTerms, settings: PolicyLoss) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of each token, and whether a bound was crossed."""
    if settings.correction == "none":
        return torch.ones_like(mismatch), torch.zeros_like(terms.trained)
    level, treatment = settings.correction.split("_")
    weight = _exp(mismatch if level == "token" else terms.document_sums(mismatch).to(mismatch.dtype))
    outside = torch.zeros_like(terms.trained)
    if settings.correction_min is not None:
        outside |= weight < settings.correction_min
    if settings.correction_max is not None:
        outside |= weight > settings.correction_max
    if treatment == "mask":
        return weight.masked_fill(outside, 0.0), outside
    return weight.clamp(settings.correction_min, settings.correction_max), outside


def _divergence(difference: torch.Tensor, estimator: str) -> torch.Tensor:
    """Of the policy from the reference, from the difference of their log-probabilities."""
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.square()
    return _exp(-difference) + difference - 1.0


def _measured(
    values: Mapping[str, torch.Tensor], ratio: torch.Tensor, mismatch: torch.Tensor, trained: torch.Tensor
) -> dict[str, torch.Tensor]:
    sums = torch.stack([torch.where(trained, values[name].double(), 0.0).sum() for name in SUMS])
    lowest = torch.tensor(-torch.inf, dtype=torch.float64, device=sums.device)
    maxima = torch.stack(
        [torch.where(trained, each.double(), lowest).max() for each in (ratio, -ratio, mismatch.abs())]
    )
    return {"sums": sums, "maxima": maxima}
