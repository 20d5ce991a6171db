"""Initial weights that do not depend on the layout."""

import hashlib

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_model import GPTModel

from tatara.model.parameters import EMBEDDING, OUTPUT, full_shape, global_name, shard
from tatara.model.spec import ModelSpec


@torch.no_grad()
def initialise(model: GPTModel, spec: ModelSpec, seed: int) -> None:
    """Fill every parameter from a generator seeded by its global name, then take this rank's shard.

    Every rank makes the full tensor, one at a time: the price of weights that do not depend on the layout.
    """
    for name, parameter in model.named_parameters():
        full_name = global_name(model, name)
        if full_name == OUTPUT and spec.tie_word_embeddings:
            full_name = EMBEDDING
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.copy_(shard(_initial_tensor(full_name, parameter, spec, seed), parameter))


def _initial_tensor(name: str, parameter: torch.nn.Parameter, spec: ModelSpec, seed: int) -> torch.Tensor:
    shape = full_shape(parameter)
    in_table = name in (EMBEDDING, OUTPUT)
    if in_table:
        shape = [spec.vocab_size, *shape[1:]]
    std = spec.init_std
    if name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        # Two projections per layer add to the residual stream (GPT-2, section 2.3; Megatron's scaled_init_method).
        std /= (2 * spec.num_layers) ** 0.5
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    full = torch.randn(shape, generator=generator) * std
    return F.pad(full, (0, 0, 0, spec.padded_vocab_size - spec.vocab_size)) if in_table else full
