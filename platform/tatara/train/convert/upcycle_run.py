"""The ``upcycle`` stage: a dense checkpoint becomes one of a mixture of experts, with its first loss beside the old."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tatara.artifact import Artifact
from tatara.errors import ArtifactError
from tatara.model.spec import ModelSpec
from tatara.model.upcycle_settings import is_exact
from tatara.stage import StageRun
from tatara.train.convert.one_rank import build, in_float32, load_megatron, read_spec, single_rank
from tatara.train.convert.task import in_task, output_below
from tatara.train.convert.upcycle import UpcycleConfig
from tatara.train.convert.weights import write_weights

if TYPE_CHECKING:
    import torch
    from megatron.core.models.gpt.gpt_model import GPTModel


def run(config: UpcycleConfig, stage_run: StageRun) -> dict[str, Any]:
    """Upcycle the checkpoint; returns what the proof measured.

    Raises:
        ConfigError: The dense model cannot become what is asked for.
        ArtifactError: The checkpoint does not hold the model it says, or the first loss is not the dense model's where
            theory says that it is.
        ClusterError: The cluster cannot hold the task.
        EngineError: The task did not finish in time.
    """
    checkpoint = stage_run.inputs["checkpoint"]
    sparse = config.sparse(read_spec(checkpoint.local("model.json").parent))
    assert sparse.moe is not None
    proof = in_task(
        upcycle_artifact,
        *(config, checkpoint, stage_run.output.url),
        name="upcycle",
        num_cpus=config.num_cpus,
        timeout=config.timeout,
        log=stage_run.log,
    )
    stage_run.report("proof", proof)
    stage_run.log(
        f"{sparse.moe.num_experts} experts by {config.method}: {proof['parameters']:,} parameters, "
        f"{proof['active_parameters']:,} of them per token; first loss {proof['sparse_loss']:.4f}, "
        f"dense {proof['dense_loss']:.4f}"
    )
    return {
        name: proof[name]
        for name in ("parameters", "active_parameters", "dense_loss", "sparse_loss", "mean_expert_similarity")
    }


def upcycle_artifact(config: UpcycleConfig, checkpoint: Artifact, url: str) -> dict[str, Any]:
    """Upcycle a checkpoint artifact below a URL; returns the proof."""
    with output_below(url) as directory:
        return upcycle_directory(config, checkpoint.local(), directory)


def upcycle_directory(config: UpcycleConfig, checkpoint: Path, directory: Path) -> dict[str, Any]:
    """Upcycle a checkpoint's payload into a directory of this machine.

    Args:
        config: Method, mixture and seed.
        checkpoint: Holds ``model.json``, ``model/``, ``training.json`` and ``tokenizer/``.
        directory: Existing directory to write into.

    Returns:
        The proof: `method`, `parameters`, `active_parameters`, `dense_loss` and `sparse_loss` (nats per token, in
        float32), `largest_token_difference`, `equal_by_theory`, `tolerance`, `tokens_compared`, `expert_similarity` by
        layer and its mean.

    Raises:
        ArtifactError: See `run`.
    """
    from tatara.model.experts import expert_similarity
    from tatara.model.hf import stream_to_hf
    from tatara.model.hf_loading import load_from_hf
    from tatara.model.upcycle import upcycle_stream
    from tatara.train.convert.export_proof import proof_batches

    dense = read_spec(checkpoint)
    sparse = config.sparse(dense)
    origin = _origin(checkpoint, dense)
    with single_rank():
        model = load_megatron(checkpoint / "model", dense)
        batches = list(proof_batches(checkpoint / "tokenizer", dense, config.proof_tokens))
        before = _losses(model, dense, batches)
        made = build(sparse)
        load_from_hf([made], sparse, upcycle_stream(stream_to_hf([model], dense), dense, sparse, config, config.seed))
        del model
        similarity = expert_similarity([made])
        after = _losses(made, sparse, batches)
        proof = {
            "method": config.method,
            "parameters": sparse.parameter_count(),
            "active_parameters": sparse.parameter_count(active=True),
            "dense_loss": float(before.mean()),
            "sparse_loss": float(after.mean()),
            "largest_token_difference": float((after - before).abs().max()),
            "equal_by_theory": is_exact(sparse, config),
            "tolerance": config.tolerance,
            "tokens_compared": before.numel(),
            "expert_similarity": {str(layer): value for layer, value in similarity.items()},
            "mean_expert_similarity": sum(similarity.values()) / len(similarity),
        }
        _check(proof)
        training = {"upcycled": config.identity(), "dense": origin}
        write_weights(made, sparse, directory, checkpoint / "tokenizer", training)
    (directory / "proof.json").write_text(json.dumps(proof, indent=1) + "\n", encoding="utf-8")
    return proof


def _check(proof: dict[str, Any]) -> None:
    # Written so that NaN fails.
    if proof["equal_by_theory"] and not proof["largest_token_difference"] <= proof["tolerance"]:
        raise ArtifactError(
            f"the mixture does not start where the dense model is: a token's loss differs by "
            f"{proof['largest_token_difference']:.2e} nats, more than tolerance {proof['tolerance']:.0e}, over "
            f"{proof['tokens_compared']} tokens"
        )


def _losses(model: "GPTModel", spec: ModelSpec, batches: Sequence["torch.Tensor"]) -> "torch.Tensor":
    """Loss of each token but the first of each sequence, computed in float32."""
    import torch

    exact = in_float32(model, spec)
    found = []
    with torch.inference_mode():
        for tokens in batches:
            positions = torch.arange(tokens.shape[1] - 1).expand(len(tokens), -1)
            found.append(exact(tokens[:, :-1], positions, None, labels=tokens[:, 1:].contiguous()).flatten())
    return torch.cat(found)


def _origin(checkpoint: Path, dense: ModelSpec) -> dict[str, Any]:
    """Where the dense weights come from; checks that they go with a tokenizer."""
    from transformers import AutoTokenizer

    path, tokenizer = checkpoint / "training.json", checkpoint / "tokenizer"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: this is not a checkpoint of the pretrain stage")
    if not (tokenizer / "tokenizer.json").is_file():
        raise ArtifactError(f"{tokenizer} holds no tokenizer.json: a checkpoint goes with its tokenizer")
    known = len(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True))
    if known > dense.vocab_size:
        raise ArtifactError(f"the tokenizer has {known} tokens, but the model only {dense.vocab_size}")
    training = json.loads(path.read_text(encoding="utf-8"))
    return {name: training[name] for name in ("step", "tokens", "loss") if name in training}
