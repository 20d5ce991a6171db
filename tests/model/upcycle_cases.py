"""What the ranks of the upcycling tests do."""

from typing import Any

import torch
from megatron.core.transformer.moe.upcycling_utils import upcycle_state_dict

from model.megatron_cases import initialise, layout, packed_batch, small_spec, token_losses
from tatara.model.experts import expert_similarity
from tatara.model.hf import stream_to_hf
from tatara.model.hf_loading import load_from_hf
from tatara.model.megatron import build_model, transformer_config
from tatara.model.spec import MixtureOfExperts, ModelSpec
from tatara.model.upcycle import upcycle_stream
from tatara.model.upcycle_settings import UpcycleSettings


def sparse_of(dense: ModelSpec, shards: int = 1, shared: int = 0, **moe: Any) -> ModelSpec:
    """The dense architecture with four experts, of which a token visits two."""
    width = (dense.ffn_hidden_size - shared) // shards
    fields = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": width, "shared_expert_ffn_hidden_size": shared}
    return dense.model_copy(update={"moe": MixtureOfExperts(**fields | {"balancing": "none"} | moe)})


def _losses(chunks: list[Any], spec: ModelSpec) -> torch.Tensor:
    with torch.no_grad():
        return token_losses(chunks[0].eval(), packed_batch(spec)).clone()


def first_step(
    sizes: Any, sparse: dict[str, Any], settings: dict[str, Any], **changes: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the dense model without expert parallelism, and of the mixture made of it."""
    initialise(sizes)
    dense = small_spec(**changes)
    to = sparse_of(dense, **sparse)
    before = build_model(dense, transformer_config(dense, layout(tp=sizes.tp, sequence_parallel=sizes.tp > 1)))
    after = build_model(to, transformer_config(to, sizes), seed=8)
    load_from_hf(after, to, upcycle_stream(stream_to_hf(before, dense), dense, to, UpcycleSettings(**settings)))
    return _losses(before, dense), _losses(after, to)


def beside_megatron(sparse: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Dense losses, those of our upcycling and of Megatron's own with the same router; and tensors that differ."""
    initialise(layout())
    dense = small_spec()
    to = sparse_of(dense, **sparse)
    before = build_model(dense, transformer_config(dense, layout()))
    mine, theirs = (build_model(to, transformer_config(to, layout()), seed=8) for _ in range(2))
    load_from_hf(mine, to, upcycle_stream(stream_to_hf(before, dense), dense, to, UpcycleSettings(**settings)))
    theirs[0].load_state_dict(upcycle_state_dict(theirs, before)["model"])
    routers = {name: tensor for name, tensor in mine[0].named_parameters() if name.endswith("router.weight")}
    theirs[0].load_state_dict(routers, strict=False)
    others = dict(theirs[0].named_parameters())
    return {
        "dense": _losses(before, dense),
        "mine": _losses(mine, to),
        "theirs": _losses(theirs, to),
        "differ": [name for name, tensor in mine[0].named_parameters() if not torch.equal(tensor, others[name])],
    }


def similarity(sizes: Any, settings: dict[str, Any] | None) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    """What the metric says of upcycled experts (None: of independent ones), and the tensors as they are streamed."""
    initialise(sizes)
    dense = small_spec()
    to = sparse_of(dense, num_experts=6)
    chunks = build_model(to, transformer_config(to, sizes), seed=8)
    if settings is not None:
        generator = torch.Generator().manual_seed(0)
        plain = build_model(dense, transformer_config(dense, layout(**vars(sizes) | {"ep": 1})), seed=2)
        tensors = {name: tensor.clone() for name, tensor in stream_to_hf(plain, dense)}
        for tensor in tensors.values():
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
        load_from_hf(chunks, to, upcycle_stream(tensors.items(), dense, to, UpcycleSettings(**settings)))
    return expert_similarity(chunks), {name: tensor.clone() for name, tensor in stream_to_hf(chunks, to)}


def dense_similarity() -> dict[int, float]:
    """What the metric says of a model without experts."""
    initialise(layout())
    return expert_similarity(build_model(small_spec(), transformer_config(small_spec(), layout())))
