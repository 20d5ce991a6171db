"""The ``import`` stage: a Hugging Face directory becomes a checkpoint that is proven to compute the same."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tatara import storage
from tatara.errors import ArtifactError, ConfigError
from tatara.model.hf_spec import family_of_config
from tatara.model.spec import ModelSpec
from tatara.stage import StageRun
from tatara.train.convert.import_config import ImportConfig
from tatara.train.convert.import_source import TOKENIZER_FILES, model_files, read_architecture, read_config
from tatara.train.convert.one_rank import build, in_float32, logits, single_rank
from tatara.train.convert.task import in_task, output_below
from tatara.train.convert.weights import write_weights

if TYPE_CHECKING:
    from tatara.model.hf_families import Family
    from tatara.model.safetensors_files import TensorDirectory

_UNTIED = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
# Rotary frequencies, which old files of Llama carry along.
_WITHOUT_EFFECT = ".rotary_emb.inv_freq"


def run(config: ImportConfig, stage_run: StageRun) -> dict[str, Any]:
    """Import the model; returns what the proof measured.

    Raises:
        ConfigError: Its ``config.json`` describes a model that is not one of ours.
        ArtifactError: A tensor is missing, unknown or of another shape, a file is damaged, or the checkpoint does not
            compute the same.
        ClusterError: The cluster cannot hold the task.
        EngineError: The task did not finish in time.
    """
    read_architecture(config)
    proof = in_task(
        import_to,
        *(config, stage_run.output.url),
        name="import",
        num_cpus=config.num_cpus,
        timeout=config.timeout,
        log=stage_run.log,
    )
    stage_run.report("proof", proof)
    stage_run.log(
        f"{proof['tensors']} tensors of a {proof['model_type']}, {proof['parameters']:,} parameters; largest logit "
        f"difference {proof['max_abs_logit_diff']:.1e} over {proof['tokens_compared']} tokens"
    )
    return {name: proof[name] for name in ("tensors", "parameters", "max_abs_logit_diff", "tokens_compared")}


def import_to(config: ImportConfig, url: str) -> dict[str, Any]:
    """Import below a URL; returns the proof."""
    with tempfile.TemporaryDirectory(prefix="tatara-import-") as scratch, output_below(url) as directory:
        source = Path(config.path)
        if not storage.is_local(config.path):
            source = Path(scratch)
            for file in model_files(config.path):
                storage.download(file.url, source / file.path)
        return import_directory(config, source, directory)


def import_directory(config: ImportConfig, source: Path, directory: Path) -> dict[str, Any]:
    """Import a directory of this machine into another.

    Args:
        config: Type of the weights, tolerance and tokens to compare.
        source: Holds ``config.json``, safetensors files and a tokenizer.
        directory: Existing directory to write the payload of a checkpoint into.

    Returns:
        The proof: `model_type`, `dtype`, `tensors`, `parameters`, `chat_template` (its name, why it cannot be used, or
        null), `max_abs_logit_diff`, `tolerance`, `tokens_compared`.

    Raises:
        ArtifactError: See `run`.
        ConfigError: See `run`.
    """
    from tatara.model.hf_loading import load_from_directory
    from tatara.train.convert.export_proof import proof_batches
    from tatara.train.convert.import_proof import prove

    model_files(str(source))
    spec = read_architecture(config.model_copy(update={"path": str(source)}))
    family = family_of_config(read_config(str(source)))
    stored = _tensors(source, spec, family, converted=config.dtype is not None)
    with tempfile.TemporaryDirectory(prefix="tatara-tokenizer-") as scratch, single_rank():
        tokenizer = Path(scratch)
        _copy_tokenizer(source, tokenizer, spec)
        template = take_template(tokenizer)
        model = build(spec)
        load_from_directory([model], spec, stored, family)
        batches = list(proof_batches(tokenizer, spec, config.proof_tokens))
        exact = in_float32(model, spec)
        computed = [logits(exact, spec, batch) for batch in batches]
        del exact
        difference = prove(source, spec, family, batches, computed, config.tolerance)
        described = {
            "chat_template": template,
            "model_type": family.model_type,
            "dtype": spec.dtype,
            "tensors": len(stored.shapes()),
        }
        write_weights(model, spec, directory, tokenizer, {"imported": described})
    proof = described | {
        "parameters": spec.parameter_count(),
        "max_abs_logit_diff": difference.largest,
        "tolerance": config.tolerance,
        "tokens_compared": difference.tokens,
    }
    (directory / "proof.json").write_text(json.dumps(proof, indent=1) + "\n")
    return proof


def _tensors(source: Path, spec: ModelSpec, family: "Family", converted: bool) -> "TensorDirectory":
    """The tensors of the files, without those that have no effect."""
    from tatara.model.safetensors_files import TensorDirectory

    stored = TensorDirectory(source)
    stored.leave_out([name for name in stored.shapes() if name.endswith(_WITHOUT_EFFECT)])
    names = stored.shapes().keys()
    if spec.tie_word_embeddings and _UNTIED in names and _EMBEDDING in names:
        if not stored.read(_UNTIED).equal(stored.read(_EMBEDDING)):
            raise ArtifactError(
                f"{source} has a {_UNTIED} of its own, though config.json says tie_word_embeddings: true"
            )
        stored.leave_out([_UNTIED])
    for name, dtype in stored.dtypes().items():
        # Routers keep float32 in models of another type.
        if not converted and dtype != spec.dtype and not name.endswith("_bias"):
            raise ArtifactError(
                f"{source} has {name} in {dtype}, but config.json says {spec.dtype}: set dtype to have all converted"
            )
    return stored


def _copy_tokenizer(source: Path, directory: Path, spec: ModelSpec) -> None:
    from transformers import AutoTokenizer

    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    if len(tokenizer) > spec.vocab_size:
        raise ArtifactError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, but vocab_size of config.json is {spec.vocab_size}"
        )


def take_template(tokenizer: Path) -> str | None:
    """Describe the chat template that a tokenizer brings, so that it can be trained and asked with.

    Returns:
        Its name and version, or why it cannot be used; None where the tokenizer has none.
    """
    from tatara.chat.adopting import adopt, own_template
    from tatara.chat.template import find_template

    found, text = find_template(tokenizer), own_template(tokenizer)
    if found is None and text is not None:
        try:
            found = adopt(text, "imported", tokenizer)
        except ConfigError as error:
            return str(error)
        found.save(tokenizer)
    return None if found is None else f"{found.name}@{found.version}"
