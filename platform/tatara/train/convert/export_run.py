"""The ``export`` stage: a Megatron checkpoint becomes a Hugging Face directory that is proven to compute the same.

The work runs in one Ray task whose process is not used again, because Megatron's process groups and, without a GPU,
the CPU adapter belong to a process. It asks for no GPU, so it runs on any node.
"""

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tatara import cluster, storage
from tatara.artifact import Artifact
from tatara.errors import ArtifactError, EngineError, TataraError
from tatara.model.spec import ModelSpec
from tatara.stage import StageRun
from tatara.train.convert.export import ExportConfig

if TYPE_CHECKING:
    import torch
    from megatron.core.models.gpt.gpt_model import GPTModel


def run(config: ExportConfig, stage_run: StageRun) -> dict[str, Any]:
    """Export the checkpoint; returns what the proof measured.

    Raises:
        ArtifactError: The checkpoint does not hold the model it says, or the exported files do not compute the same.
        ClusterError: The cluster cannot hold the task.
        EngineError: The task did not finish in time.
    """
    import ray

    cluster.ensure_fits([{"CPU": config.num_cpus}], "export", log=stage_run.log)
    # Its node may have a GPU, which the task must not find.
    no_gpu = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    export = ray.remote(num_cpus=config.num_cpus, max_calls=1, runtime_env=no_gpu)(export_artifact)
    task = export.remote(config, stage_run.inputs["checkpoint"], stage_run.output.url)
    proof = _wait(task, config.timeout)
    stage_run.report("proof", proof)
    stage_run.log(
        f"{proof['tensors']} tensors, {proof['parameters']:,} parameters; largest logit difference "
        f"{proof['max_abs_logit_diff']:.1e} over {proof['tokens_compared']} tokens"
    )
    return {name: proof[name] for name in ("tensors", "parameters", "max_abs_logit_diff", "tokens_compared")}


def _wait(task: Any, timeout: float) -> dict[str, Any]:
    import ray

    try:
        return ray.get(task, timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(task, force=True)
        raise EngineError(f"the export did not finish within {timeout:.0f} s: raise timeout, or num_cpus") from None
    except ray.exceptions.RayTaskError as error:
        # A user's mistake is one line, also when it happened on another node.
        cause = error.cause
        raise (cause if isinstance(cause, TataraError) else error) from None


def export_artifact(config: ExportConfig, checkpoint: Artifact, url: str) -> dict[str, Any]:
    """Export a checkpoint artifact below a URL; returns the proof."""
    from tatara.train.lean_imports import import_megatron

    # Megatron warns of each fusion that it lacks without Apex and Transformer Engine.
    warnings.filterwarnings("ignore", module=r"megatron\.")
    import_megatron()
    directory = Path(url) if storage.is_local(url) else Path(tempfile.mkdtemp(prefix="tatara-export-"))
    proof = export_directory(config, checkpoint.local(), directory)
    if not storage.is_local(url):
        storage.upload(directory, url)
        shutil.rmtree(directory)
    return proof


def export_directory(config: ExportConfig, checkpoint: Path, directory: Path) -> dict[str, Any]:
    """Export a checkpoint's payload into a directory of this machine.

    Args:
        config: Tolerance, tokens to compare and size of files.
        checkpoint: Holds ``model.json``, ``model/`` and ``tokenizer/``.
        directory: Existing directory to write into.

    Returns:
        The proof: `tensors`, `parameters`, `missing_tensors`, `unexpected_tensors`, `max_abs_logit_diff`,
        `tolerance`, `tokens_compared`, `sha256` by file.

    Raises:
        ArtifactError: See `run`.
    """
    from tatara.model.hf import stream_to_hf
    from tatara.model.safetensors_files import write_tensors
    from tatara.train.convert.export_proof import proof_batches, prove

    spec = read_spec(checkpoint)
    eos = _copy_tokenizer(checkpoint / "tokenizer", directory, spec)
    with single_rank():
        model = load_megatron(checkpoint / "model", spec)
        write_tensors(stream_to_hf([model], spec), directory, config.max_shard_size)
        _write_configs(spec, directory, eos)
        batches = list(proof_batches(directory, spec, config.proof_tokens))
        exact = _in_float32(model, spec)
        expected = [_logits(exact, batch)[..., : spec.vocab_size] for batch in batches]
        proof = prove(directory, spec, batches, expected, config.tolerance)
    (directory / "proof.json").write_text(json.dumps(proof, indent=1) + "\n")
    return proof


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

    model = _build(spec)
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

    taken = [item for item in nested_values(state) if isinstance(item, ShardedTensor | ShardedTensorFactory)]
    weights = {key for key in stored if not key.startswith("optimizer.")}
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


def _build(spec: ModelSpec) -> "GPTModel":
    from tatara.model.megatron import build_model, transformer_config

    layout = SimpleNamespace(tp=1, pp=1, cp=1, virtual_stages=1, sequence_parallel=False)
    return build_model(spec, transformer_config(spec, layout))[0].eval()


def _in_float32(model: "GPTModel", spec: ModelSpec) -> "GPTModel":
    """The same weights in a float32 model: bfloat16 kernels round differently, which would hide a real difference."""
    import torch

    if spec.dtype == "float32":
        return model
    exact = _build(spec.model_copy(update={"dtype": "float32"}))
    with torch.no_grad():
        for target, source in zip(exact.parameters(), model.parameters(), strict=True):
            target.copy_(source)
    return exact


def _logits(model: "GPTModel", tokens: "torch.Tensor") -> "torch.Tensor":
    import torch

    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.inference_mode():
        return model(tokens, positions, None)


def _copy_tokenizer(source: Path, directory: Path, spec: ModelSpec) -> int | None:
    """Copy the tokenizer's files; returns the id of its end-of-sequence token."""
    from transformers import AutoTokenizer

    if not (source / "tokenizer.json").is_file():
        raise ArtifactError(f"{source} holds no tokenizer.json: the exported model could not read text")
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    if len(tokenizer) > spec.vocab_size:
        raise ArtifactError(f"the tokenizer has {len(tokenizer)} tokens, but the model only {spec.vocab_size}")
    shutil.copytree(source, directory, dirs_exist_ok=True)
    return tokenizer.eos_token_id


def _write_configs(spec: ModelSpec, directory: Path, eos: int | None) -> None:
    from transformers import GenerationConfig, LlamaConfig

    from tatara.model.hf import hf_config

    LlamaConfig(**hf_config(spec, eos)).save_pretrained(directory)
    GenerationConfig(bos_token_id=eos, eos_token_id=eos, pad_token_id=eos).save_pretrained(directory)


def _one_line(error: BaseException) -> str:
    # torch wraps what went wrong on each rank, with its traceback as text.
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
