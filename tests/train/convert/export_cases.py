"""What the ranks of the export tests do: write a checkpoint in the format of the pretrain stage, and export it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing

from model.megatron_cases import chunks, small_spec
from tatara.train.convert.export import ExportConfig
from tatara.train.convert.export_run import export_directory
from tatara.train.engine import SHARDING

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
    if dist.get_rank() == 0:
        (directory / "model").mkdir(parents=True)
        (directory / "model.json").write_text(json.dumps(spec.dump()))
        write_tokenizer(directory / "tokenizer")
    dist.barrier()
    names = ["model"] if len(model) == 1 else [f"model{index}" for index in range(len(model))]
    state = {name: chunk.sharded_state_dict(metadata=dict(SHARDING)) for name, chunk in zip(names, model, strict=True)}
    dist_checkpointing.save(state, str(directory / "model"), ("torch_dist", 1))


def export(checkpoint: Path, directory: Path, **config: Any) -> dict[str, Any] | str:
    """Export in a process of its own: the proof, or the error's type and message where it fails."""
    dist.destroy_process_group()
    directory.mkdir(exist_ok=True)
    try:
        return export_directory(ExportConfig(**config), checkpoint, directory)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        dist.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)
