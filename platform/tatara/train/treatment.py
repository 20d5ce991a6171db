"""Applies what the optimizer's settings say about patterns of names to a Megatron model: freezing, decay, rates."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import ParamKey
from megatron.core.optimizer.optimizer_config import ParamPredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride

from tatara.model.parameters import EMBEDDING, OUTPUT, global_name
from tatara.train.optimizer import AdamSettings, parameter_groups, treatment


def treat(models: Sequence[GPTModel], settings: AdamSettings) -> dict[ParamKey, ParamGroupOverride]:
    """Freeze what shall be frozen, and say how Megatron's optimizer has to group the rest. Collective over all ranks.

    Args:
        models: This rank's chunks, before they are wrapped for training.
        settings: What is said about patterns.

    Returns:
        ``config_overrides`` of Megatron's optimizer: weight-decay and learning-rate multipliers.

    Raises:
        ConfigError: A pattern matches no parameter of the whole model, or nothing is left to train.
    """
    named = [(name, parameter) for model in models for name, parameter in _named(model)]
    everywhere: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, [name for name, _ in named])
    parameter_groups(sorted({name for names in everywhere for name in names}), settings)
    groups: dict[tuple[bool, float], set[int]] = {}
    for name, parameter in named:
        frozen, decays, multiplier = treatment(name, settings)
        if frozen:
            parameter.requires_grad_(False)
        else:
            groups.setdefault((decays, multiplier), set()).add(id(parameter))
    return {
        _members(f"decay {decays}, rate {multiplier}", members): {"wd_mult": float(decays), "lr_mult": multiplier}
        for (decays, multiplier), members in groups.items()
    }


def _members(name: str, members: set[int]) -> ParamKey:
    return ParamKey(predicate=ParamPredicate(name, lambda parameter: id(parameter) in members))


def _named(model: GPTModel) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters by their global names. A copy of a tied embedding, as the last stage has one, is the embedding."""
    tied = model.share_embeddings_and_output_weights
    names = ((global_name(model, name), parameter) for name, parameter in model.named_parameters())
    return [(EMBEDDING if tied and name == OUTPUT else name, parameter) for name, parameter in names]
