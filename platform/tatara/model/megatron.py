"""Builds the Megatron-core model of a `ModelSpec`, with weights that do not depend on the layout.

Conventions of the forward pass, `model(input_ids, position_ids, attention_mask, labels=...)`:

- `input_ids`, `position_ids`, `labels`: `[micro_batch, sequence / cp]`, see `attention.context_slice`;
- `attention_mask`: from `attention.document_mask`, once per micro-batch;
- with `labels` the last stage returns the loss of each token `[micro_batch, sequence / cp]`, otherwise the logits
  `[micro_batch, sequence / cp, padded vocabulary / tp]`.

Rotary positions come from the index in the row; Megatron does not read `position_ids` for them. Attention scores only
depend on differences of positions, and documents do not see each other, so a document that starts in the middle of a
row gets the scores it would get at the start of one. Positions never exceed the sequence length.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from tatara.errors import LayoutError
from tatara.model.attention import DotProductAttention
from tatara.model.spec import ModelSpec

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"


class Layout(Protocol):
    """The sizes that decide which part of the model a rank holds."""

    @property
    def tp(self) -> int:
        """Tensor-parallel size."""

    @property
    def pp(self) -> int:
        """Pipeline-parallel size."""

    @property
    def cp(self) -> int:
        """Context-parallel size."""

    @property
    def virtual_stages(self) -> int:
        """Model chunks per pipeline rank."""

    @property
    def sequence_parallel(self) -> bool:
        """Whether activations between tensor-parallel regions are split along the sequence."""


class RMSNorm(torch.nn.RMSNorm):
    """RMS normalisation whose weight is marked for the gradient reduction of sequence parallelism.

    Megatron's wrapper of torch's norm refuses sequence parallelism; all it takes is the mark.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        device = torch.device("cpu") if config.use_cpu_initialization else torch.cuda.current_device()
        super().__init__(hidden_size, eps=eps, device=device, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


def transformer_config(spec: ModelSpec, layout: Layout, **overrides: Any) -> TransformerConfig:
    """Megatron's configuration of a model in a layout.

    Args:
        spec: The architecture.
        layout: Parallel sizes; Megatron's process groups must have been made with the same.
        overrides: Further fields of `TransformerConfig`, such as activation recomputation.

    Raises:
        LayoutError: Tensor parallelism does not divide the padded vocabulary.
    """
    if spec.padded_vocab_size % layout.tp:
        raise LayoutError(f"tp {layout.tp} must divide the padded vocabulary of {spec.padded_vocab_size}")
    dtype = getattr(torch, spec.dtype)
    interleaved = layout.virtual_stages > 1
    on_gpu = torch.cuda.is_available()
    fields: dict[str, Any] = {
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "num_attention_heads": spec.num_attention_heads,
        "num_query_groups": spec.num_query_groups,
        "kv_channels": spec.head_size,
        "ffn_hidden_size": spec.ffn_hidden_size,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "normalization": "RMSNorm",
        "layernorm_epsilon": spec.rms_norm_eps,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.virtual_stages if interleaved else None,
        "context_parallel_size": layout.cp,
        "sequence_parallel": layout.sequence_parallel,
        # Interleaved stages over gloo read each other's messages when they are batched, without an error.
        "batch_p2p_comm": on_gpu or not interleaved,
        # Summed token losses and counts; must be known before DistributedDataParallel wraps the model, or context
        # parallelism halves the gradients.
        "calculate_per_token_loss": True,
        "finalize_model_grads_func": finalize_model_grads,
        # `_initialise` fills every parameter. Megatron's own initialisation still runs, with nothing to do, because it
        # also marks the parameters that tensor parallelism splits.
        "init_method": _leave,
        "output_layer_init_method": _leave,
        "embedding_init_method": _leave,
        "use_cpu_initialization": not on_gpu,
        # These fusions need Apex or compile kernels at the first step.
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": False,
    }
    return TransformerConfig(**(fields | overrides))


def build_model(spec: ModelSpec, config: TransformerConfig, seed: int = 0) -> list[GPTModel]:
    """Build this rank's model chunks (one, or one per virtual pipeline stage) with their initial weights.

    Megatron's process groups must be initialised and, without a GPU, the CPU adapter installed.

    Args:
        spec: The architecture.
        config: From `transformer_config`.
        seed: Of the initial weights. The same seed gives the same full tensors in every layout.
    """
    stages = config.virtual_pipeline_model_parallel_size
    chunks = []
    for stage in range(stages) if stages else [None]:
        chunk = GPTModel(
            config,
            _block_spec(config, stage),
            vocab_size=spec.padded_vocab_size,
            max_sequence_length=spec.max_position_embeddings,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            share_embeddings_and_output_weights=spec.tie_word_embeddings,
            position_embedding_type="rope",
            rotary_base=spec.rope_theta,
            vp_stage=stage,
        )
        _initialise(chunk, spec, seed)
        _ignore_padding_logits(chunk, spec)
        chunks.append(chunk)
    return chunks


def global_parameters(chunks: Sequence[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """This rank's parameters under names that are the same in every layout.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.

    Yields:
        Name with the layer's number in the whole model (`decoder.layers.<n>.`), and the local shard. A tied output
        projection is not listed: it is the embedding, even where pipeline parallelism keeps a second copy.
    """
    for chunk in chunks:
        model = unwrap(chunk)
        for name, parameter in model.named_parameters():
            name = _global_name(model, name)
            if name != OUTPUT or not model.share_embeddings_and_output_weights:
                yield name, parameter


def unwrap(module: torch.nn.Module) -> GPTModel:
    """The model inside Megatron's data-parallel and precision wrappers."""
    while not isinstance(module, GPTModel):
        module = module.module
    return module


def _leave(weight: torch.Tensor) -> torch.Tensor:
    return weight


def _block_spec(config: TransformerConfig, stage: int | None) -> TransformerBlockSubmodules:
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer.submodules.input_layernorm = RMSNorm
    layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = DotProductAttention
    layers = get_num_layers_to_build(config, vp_stage=stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=RMSNorm)


def _global_name(model: GPTModel, name: str) -> str:
    parts = name.split(".")
    if parts[:2] == ["decoder", "layers"]:
        parts[2] = str(model.decoder.layers[int(parts[2])].layer_number - 1)
    return ".".join(parts)


@torch.no_grad()
def _initialise(model: GPTModel, spec: ModelSpec, seed: int) -> None:
    """Fill every parameter from a generator seeded by its global name, then take this rank's shard.

    Every rank makes the full tensor, one at a time: the price of weights that do not depend on the layout.
    """
    for name, parameter in model.named_parameters():
        full_name = _global_name(model, name)
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


def full_shape(parameter: torch.nn.Parameter) -> list[int]:
    """Shape of a parameter over all tensor-parallel ranks."""
    shape = list(parameter.shape)
    if is_sharded(parameter):
        shape[parameter.partition_dim] *= parallel_state.get_tensor_model_parallel_world_size()
    return shape


def is_sharded(parameter: torch.nn.Parameter) -> bool:
    """Whether tensor parallelism splits a parameter; otherwise every rank holds all of it."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def shard(full: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """This tensor-parallel rank's part of a full tensor.

    A gated fc1 is two matrices under each other (`partition_stride` 2): a rank gets a part of each.
    """
    world = parallel_state.get_tensor_model_parallel_world_size()
    if world == 1 or not is_sharded(parameter):
        return full
    dim, stride = parameter.partition_dim, parameter.partition_stride
    pieces = full.split(full.shape[dim] // (world * stride), dim)
    return torch.cat(pieces[parallel_state.get_tensor_model_parallel_rank() :: world], dim)


def unshard(parts: Sequence[torch.Tensor], parameter: torch.nn.Parameter) -> torch.Tensor:
    """The full tensor from the parts of all tensor-parallel ranks; the inverse of `shard`."""
    if len(parts) == 1 or not is_sharded(parameter):
        return parts[0]
    dim, stride = parameter.partition_dim, parameter.partition_stride
    pieces = [part.chunk(stride, dim) for part in parts]
    return torch.cat([piece[index] for index in range(stride) for piece in pieces], dim)


def _ignore_padding_logits(model: GPTModel, spec: ModelSpec) -> None:
    """Keep the rows that only pad the vocabulary out of the softmax, as if they were not there."""
    if not model.post_process:
        return
    local = spec.padded_vocab_size // parallel_state.get_tensor_model_parallel_world_size()
    first = max(spec.vocab_size - parallel_state.get_tensor_model_parallel_rank() * local, 0)
    if first >= local:
        return

    def hide(_: torch.nn.Module, __: Any, output: tuple[torch.Tensor, Any]) -> None:
        # In place and unseen by autograd, which saves a copy of all logits each way: their share in the softmax is
        # exactly zero, and so is their gradient.
        output[0].detach()[..., first:].fill_(torch.finfo(output[0].dtype).min)

    model.output_layer.register_forward_hook(hide)
