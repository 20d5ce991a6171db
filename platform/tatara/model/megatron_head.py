"""Megatron's GPT model, with a loss that can be that of the distribution which tokens are sampled from."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel

from tatara.model.parameters import unwrap

_CHUNK = 1024
"""Positions whose probabilities are looked at at once: what the entropy needs besides the logits stays small."""


class LanguageModel(GPTModel):
    """A GPT model whose head can be told at which temperature its tokens are sampled.

    Attributes:
        temperature: None: with labels, the last stage returns the loss of each token, ``[batch, sequence]``. Otherwise
            it returns negative log-probabilities and entropies at that temperature, ``[2, batch, sequence]``; the
            second is without gradient, and zero in a pass that computes none.
    """

    temperature: float | None = None

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The loss of each token; see `temperature`.

        Args:
            labels: ``[batch, sequence]``.
            logits: ``[sequence, batch, vocabulary / tp]``; in float32, they are overwritten.
        """
        temperature = self.temperature
        if temperature is None:
            return super().compute_language_model_loss(labels, logits)
        logits = logits.float()
        # Unseen by autograd, which would keep a copy of all logits; the gradient of the small result is scaled instead.
        logits.detach().div_(temperature)
        # Before the loss, which leaves probabilities in place of the logits.
        entropies = entropy(logits.detach()).transpose(0, 1) if torch.is_grad_enabled() else None
        losses = super().compute_language_model_loss(labels, logits)
        if temperature != 1.0:
            scaled = losses / temperature
            losses = scaled + (losses - scaled).detach()
        return torch.stack([losses, torch.zeros_like(losses) if entropies is None else entropies])


@contextlib.contextmanager
def sampled_at(chunks: Sequence[torch.nn.Module], temperature: float) -> Iterator[None]:
    """Have the heads return log-probabilities at a temperature, see `LanguageModel`, while the block runs."""
    models = [unwrap(chunk) for chunk in chunks]
    for model in models:
        model.temperature = temperature
    try:
        yield
    finally:
        for model in models:
            model.temperature = None


@torch.no_grad()
def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy, in nats, of the distribution over a vocabulary that tensor parallelism splits.

    Args:
        logits: ``[..., vocabulary / tp]`` float32; very small ones, as those of padding, count for nothing.

    Returns:
        ``[...]``, the same on every tensor-parallel rank.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    largest, sums = rows.new_empty(len(rows)), rows.new_empty(2, len(rows))
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        place = slice(start, start + len(part))
        largest[place] = part.amax(-1)
        # Padding may be minus infinity: its probability is zero, and zero times infinity is not.
        part = (part - largest[place, None]).clamp_(min=-1e4)
        weights = part.exp()
        sums[0, place] = weights.sum(-1)
        sums[1, place] = weights.mul_(part).sum(-1)
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        group = parallel_state.get_tensor_model_parallel_group()
        own = largest.clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        # Sums of e^(x - own) and of (x - own) e^(x - own), as if they had been taken relative to the largest of all.
        shift = (own - largest).clamp_(min=-1e4)
        sums[1] += shift * sums[0]
        sums *= shift.exp()
        dist.all_reduce(sums, group=group)
    return (sums[0].log() - sums[1] / sums[0]).view(logits.shape[:-1])
