"""What the ranks of the export tests do: write a checkpoint in the format of the pretrain stage, and export it."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state

from model.hf_cases import LiveBytes
from model.megatron_cases import chunks, layout, packed_batch, small_spec
from tatara.model.hf import stream_to_hf
from tatara.model.hf_files import write_stored
from tatara.model.parameters import global_buffers
from tatara.model.safetensors_files import TensorDirectory
from tatara.train.checkpoint.writer import CheckpointWriter
from tatara.train.convert.export import ExportConfig
from tatara.train.convert.export_run import export_directory, read_spec
from tatara.train.convert.stored_weights import StoredWeights
from tatara.train.engine import Engine
from tatara.train.feed.batches import Batch
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings

END = "<|endoftext|>"


def write_tokenizer(directory: Path, vocabulary: int = 400) -> None:
    """A byte-level BPE tokenizer with few merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["a furnace turns iron sand into steel, one charge after another"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)
    fast.save_pretrained(directory)


def save_checkpoint(directory: Path, sizes: Any, **changes: Any) -> None:
    """A checkpoint of initial weights in a layout, with the parts that export reads."""
    spec = small_spec(**changes)
    model = chunks(spec, sizes)
    set_biases(model)
    if dist.get_rank() == 0:
        (directory / "model").mkdir(parents=True)
        (directory / "model.json").write_text(json.dumps(spec.dump()))
        write_tokenizer(directory / "tokenizer")
    dist.barrier()
    names = ["model"] if len(model) == 1 else [f"model{index}" for index in range(len(model))]
    state = {name: chunk.sharded_state_dict() for name, chunk in zip(names, model, strict=True)}
    dist_checkpointing.save(state, str(directory / "model"), ("torch_dist", 1))


def save_trained(directory: Path, sizes: dict[str, Any]) -> None:
    """A checkpoint after one step of training, with the optimizer's state."""
    spec = small_spec()
    engine = Engine(spec, ParallelLayout(**sizes), AdamSettings(learning_rate=1e-2), micro_batch_size=1)
    row = {name: value.numpy() for name, value in packed_batch(spec).items()}
    weights = (row["document_ids"] >= 0).astype("float32")
    batch = Batch(row["tokens"], row["targets"], weights, row["position_ids"], row["document_ids"])
    engine.train_step(batch.split(1), 1e-2)
    writer = CheckpointWriter(engine, directory / "checkpoints", keep=1)
    writer.save(1, {"step": 1, "layout": engine.layout.dump(), "model": spec.dump()}, [])
    writer.finish()
    if dist.get_rank() == 0:
        shutil.copytree(directory / "checkpoints" / "step-00000001" / "model", directory / "model")
        (directory / "model.json").write_text(json.dumps(spec.dump()))
        write_tokenizer(directory / "tokenizer")
    dist.barrier()


def save_checkpoints(root: Path, wanted: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """The same for several models, each in its own layout: name to (layout, architecture)."""
    for name, (sizes, changes) in wanted.items():
        save_checkpoint(root / name, layout(**sizes), **changes)
        parallel_state.destroy_model_parallel()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Without the process groups of the test, so that the program makes its own."""
    dist.destroy_process_group()
    try:
        yield
    finally:
        dist.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)


def export(checkpoint: Path, directory: Path, **config: Any) -> dict[str, Any] | str:
    """Export in a process of its own: the proof, or the error's type and message where it fails."""
    directory.mkdir(exist_ok=True)
    with alone():
        try:
            return export_directory(ExportConfig(**config), checkpoint, directory)
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def export_each(wanted: dict[str, tuple[Path, Path, dict[str, Any]]]) -> dict[str, dict[str, Any] | str]:
    """Export several, one after the other: name to (checkpoint, directory, keywords of `ExportConfig`)."""
    return {name: export(checkpoint, to, **config) for name, (checkpoint, to, config) in wanted.items()}


def exports(root: Path, wanted: dict[str, dict[str, Any]], **config: Any) -> dict[str, dict[str, Any] | str]:
    """Export several; each proof also says whether the files hold what one rank began with, bit for bit."""
    told = {}
    for name, changes in wanted.items():
        directory = root / f"{name} exported"
        proof = export(root / name, directory, **config)
        if isinstance(proof, dict):
            spec = small_spec(**changes)
            model = chunks(spec, layout())
            set_biases(model)
            stored = TensorDirectory(directory)
            streamed = {key: value.clone() for key, value in stream_to_hf(model, spec)}
            parallel_state.destroy_model_parallel()
            same = stored.shapes().keys() == streamed.keys()
            proof["same"] = same and all(torch.equal(stored.read(key), streamed[key]) for key in streamed)
        told[name] = proof
    return told


def set_biases(model: list[Any]) -> None:
    """Give routers biases, the same in every layout."""
    for name, bias in global_buffers(model):
        layer = int(name.split(".")[2])
        bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(layer)))


def memory(checkpoint: Path, directory: Path) -> tuple[int, int]:
    """Most bytes of tensors while a checkpoint becomes files, and the largest tensor."""
    spec = read_spec(checkpoint)
    weights = StoredWeights(checkpoint / "model", spec)
    with LiveBytes() as writing:
        write_stored(weights, spec, directory, 200_000)
    read = (weights.read(entry) for entry in weights.entries())
    return writing.most, max(tensor.nbytes for tensor in read if tensor is not None)
