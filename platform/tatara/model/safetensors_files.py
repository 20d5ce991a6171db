"""Writes a weight stream as safetensors files that transformers and vLLM load."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_tensors(tensors: Iterable[tuple[str, torch.Tensor]], directory: Path, max_shard_size: int) -> None:
    """Write a weight stream as safetensors: ``model.safetensors``, or numbered files with an index.

    One file's tensors are in memory at a time.
    """
    shards: list[dict[str, int]] = []
    pending: dict[str, torch.Tensor] = {}

    def flush() -> None:
        save_file(pending, directory / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append({name: tensor.nbytes for name, tensor in pending.items()})
        pending.clear()

    for name, tensor in tensors:
        if pending and sum(held.nbytes for held in pending.values()) + tensor.nbytes > max_shard_size:
            flush()
        pending[name] = tensor.clone().contiguous()
    flush()
    if len(shards) == 1:
        (directory / "0.safetensors").rename(directory / "model.safetensors")
        return
    names = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    for number, name in enumerate(names):
        (directory / f"{number}.safetensors").rename(directory / name)
    index = {
        "metadata": {"total_size": sum(sum(shard.values()) for shard in shards)},
        "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
