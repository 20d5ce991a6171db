"""What the ranks of the export tests do: write a checkpoint in the format of the pretrain stage, and export it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from model.megatron_cases import chunks, small_spec

from tatara.train.export import ExportConfig
from tatara.train.export_run import export_directory


def save_checkpoint(directory: Path, tokenizer: Path, sizes: Any, **changes: Any) -> None:
    """A checkpoint of initial weights in a layout, with the parts that export reads."""
    spec = small_spec(**changes)
    model = chunks(spec, sizes)
    if dist.get_rank() == 0:
        (directory / "model").mkdir(parents=True)
        (directory / "model.json").write_text(json.dumps(spec.dump()))
        shutil.copytree(tokenizer, directory / "tokenizer")
    dist.barrier()
    names = ["model"] if len(model) == 1 else [f"model{index}" for index in range(len(model))]
    state = {name: chunk.sharded_state_dict() for name, chunk in zip(names, model, strict=True)}
    dist_checkpointing.save(state, str(directory / "model"), ("torch_dist", 1))


def export(checkpoint: Path, directory: Path, **config: Any) -> dict[str, Any]:
    """Export in a process of its own; the error's type and message where it fails."""
    dist.destroy_process_group()
    directory.mkdir(exist_ok=True)
    try:
        return export_directory(ExportConfig(**config), checkpoint, directory)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        dist.init_process_group("gloo", init_method=f"file://{directory}.again", rank=0, world_size=1)
