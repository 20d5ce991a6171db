"""A whole Megatron model on one rank: its process groups, its weights from a checkpoint, its logits."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tatara.errors import ArtifactError
from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout

if TYPE_CHECKING:
    import torch
    from megatron.core.models.gpt.gpt_model import GPTModel


def read_spec(checkpoint: Path) -> ModelSpec:
    """The architecture of a checkpoint.

    Raises:
        ArtifactError: There is no ``model.json``, or it is not a `ModelSpec`.
    """
    path = checkpoint / "model.json"
    try:
        return ModelSpec.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: this is not a checkpoint of the pretrain stage") from None
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
        raise ArtifactError(f"{path} does not describe a model: {what}") from None


@contextlib.contextmanager
def single_rank() -> Iterator[None]:
    """Megatron's process groups for a world of this process alone; they are gone afterwards."""
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel

    from tatara.train import cpu_adapter

    cpu_adapter.install()
    with tempfile.TemporaryDirectory() as directory:
        dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=0, world_size=1)
        try:
            parallel_state.initialize_model_parallel()
            tensor_parallel.model_parallel_cuda_manual_seed(0)
            yield
        finally:
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()


def load_megatron(directory: Path, spec: ModelSpec) -> "GPTModel":
    """Load the weights of a distributed checkpoint, whatever layout wrote it, into one rank.

    Raises:
        ArtifactError: The checkpoint cannot be read, or lacks a tensor of the model.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from torch.distributed.checkpoint.api import CheckpointException

    model = build(spec)
    state = {"model": model.sharded_state_dict()}
    try:
        _account(state, dist_checkpointing.load_tensors_metadata(str(directory)), directory)
        loaded = dist_checkpointing.load(state, str(directory))
        model.load_state_dict(loaded["model"])
    except (CheckpointException, CheckpointingException, OSError, KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{directory} does not hold the model of model.json: {_one_line(error)}") from error
    return model


def _account(state: dict[str, Any], stored: dict[str, Any], directory: Path) -> None:
    """Compare what a model takes with what a checkpoint stores.

    Megatron's load is content with tensors that it does not take, and cuts or pads a vocabulary that does not fit.
    """
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    from tatara.train.checkpoint.names import is_weight

    taken = [item for item in nested_values(state) if isinstance(item, ShardedTensor | ShardedTensorFactory)]
    weights = {key for key in stored if is_weight(key)}
    extra = weights - {item.key for item in taken}
    if extra:
        raise ArtifactError(f"{directory} also has {min(extra)}, which the model of model.json does not")
    for item in taken:
        if item.key not in stored:
            raise ArtifactError(f"{directory} lacks {item.key}, which the model of model.json has")
        # A gated matrix is split when it is loaded, which checks its shape.
        if isinstance(item, ShardedTensor) and tuple(item.global_shape) != tuple(stored[item.key].global_shape):
            shapes = [list(one.global_shape) for one in (stored[item.key], item)]
            raise ArtifactError(
                f"{directory} has {item.key} of shape {shapes[0]}, but the model of model.json has {shapes[1]}"
            )


def build(spec: ModelSpec) -> "GPTModel":
    """The whole model on this rank."""
    from tatara.model.megatron import build_model, transformer_config

    return build_model(spec, transformer_config(spec, ParallelLayout()))[0].eval()


def in_float32(model: "GPTModel", spec: ModelSpec) -> "GPTModel":
    """The same weights in a float32 model: bfloat16 kernels round differently, which would hide a real difference."""
    if spec.dtype == "float32":
        return model
    exact = build(spec.model_copy(update={"dtype": "float32"}))
    exact.load_state_dict(model.state_dict())
    return exact


def logits(model: "GPTModel", spec: ModelSpec, tokens: "torch.Tensor") -> "torch.Tensor":
    """Logits of token ids `[batch, sequence]`: `[batch, sequence, vocab_size]`."""
    import torch

    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.inference_mode():
        return model(tokens, positions, None)[..., : spec.vocab_size]


def _one_line(error: BaseException) -> str:
    # torch wraps what went wrong on each rank, with its traceback as text.
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
