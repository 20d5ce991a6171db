"""The ``export`` stage: a Megatron checkpoint becomes a Hugging Face directory that is proven to compute the same."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tatara.artifact import Artifact
from tatara.chat.model_files import end_ids
from tatara.errors import ArtifactError
from tatara.model.hf_families import hf_config
from tatara.model.spec import ModelSpec
from tatara.stage import StageRun
from tatara.train.convert.export import ExportConfig
from tatara.train.convert.one_rank import in_float32, load_megatron, logits, read_spec, single_rank
from tatara.train.convert.task import in_task, output_below

if TYPE_CHECKING:
    import torch

__all__ = ["export_artifact", "export_directory", "load_megatron", "read_spec", "run", "single_rank"]


def run(config: ExportConfig, stage_run: StageRun) -> dict[str, Any]:
    """Export the checkpoint; returns what the proof measured.

    Raises:
        ArtifactError: The checkpoint does not hold the model it says, or the exported files do not compute the same.
        ConfigError: No Hugging Face architecture holds the model.
        ClusterError: The cluster cannot hold the task.
        EngineError: The task did not finish in time.
    """
    proof = in_task(
        export_artifact,
        *(config, stage_run.inputs["checkpoint"], stage_run.output.url),
        name="export",
        num_cpus=config.num_cpus,
        timeout=config.timeout,
        log=stage_run.log,
    )
    stage_run.report("proof", proof)
    compared = "logits not compared, as proof_tokens=0 says"
    if "max_abs_logit_diff" in proof:
        compared = f"largest logit difference {proof['max_abs_logit_diff']:.1e} over {proof['tokens_compared']} tokens"
    stage_run.log(f"{proof['tensors']} tensors, {proof['parameters']:,} parameters; {compared}")
    wanted = ("tensors", "parameters", "max_abs_logit_diff", "tokens_compared")
    return {name: proof[name] for name in wanted if name in proof}


def export_artifact(config: ExportConfig, checkpoint: Artifact, url: str) -> dict[str, Any]:
    """Export a checkpoint artifact below a URL; returns the proof."""
    with output_below(url) as directory:
        return export_directory(config, checkpoint.local(), directory)


def export_directory(config: ExportConfig, checkpoint: Path, directory: Path) -> dict[str, Any]:
    """Export a checkpoint's payload into a directory of this machine.

    Args:
        config: Tolerance, tokens to compare and size of files.
        checkpoint: Holds ``model.json``, ``model/`` and ``tokenizer/``.
        directory: Existing directory to write into.

    Returns:
        The proof: `tensors`, `parameters`, `missing_tensors`, `unexpected_tensors`, `sha256` by file and, where logits
        were compared, `max_abs_logit_diff`, `tolerance`, `tokens_compared`.

    Raises:
        ArtifactError: See `run`.
        ConfigError: See `run`.
    """
    from tatara.model.hf_files import write_stored
    from tatara.train.convert.export_proof import account, proof_batches, prove
    from tatara.train.convert.stored_weights import StoredWeights

    spec = read_spec(checkpoint)
    eos = _copy_tokenizer(checkpoint / "tokenizer", directory, spec)
    _write_configs(spec, directory, eos)
    batches: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []
    if config.proof_tokens:
        batches += proof_batches(directory, spec, config.proof_tokens)
        with single_rank():
            model = in_float32(load_megatron(checkpoint / "model", spec), spec)
            expected += [logits(model, spec, batch) for batch in batches]
            # Room for the same model once more.
            del model
    write_stored(StoredWeights(checkpoint / "model", spec), spec, directory, config.max_shard_size)
    proof = prove(directory, spec, batches, expected, config.tolerance) if batches else account(directory, spec)
    (directory / "proof.json").write_text(json.dumps(proof, indent=1) + "\n")
    return proof


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
    from transformers import GenerationConfig, __version__

    # Not through transformers' own class, which leaves out what only older readers need.
    config = hf_config(spec, eos) | {"transformers_version": __version__}
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    # A chat model must stop where the assistant's turn ends, not only where a document does.
    ends = end_ids(directory, eos)
    GenerationConfig(bos_token_id=eos, eos_token_id=ends, pad_token_id=eos).save_pretrained(directory)
