"""What the rank of the import tests does, and the directories that it imports."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from model.hf_cases import ARCHITECTURES, transformers_model
from model.megatron_cases import small_spec
from tatara.model.safetensors_files import TensorDirectory
from tatara.train.convert.export import ExportConfig
from tatara.train.convert.export_run import export_directory
from tatara.train.convert.import_config import ImportConfig
from tatara.train.convert.import_run import import_directory
from train.convert.export_cases import alone, write_tokenizer

FAMILIES = ["llama", "llama tied", "qwen3", "mixtral", "qwen3 moe", "olmoe", "glm4 moe", "instella"]


def write_sources(root: Path) -> None:
    """Models of every architecture with random weights, as transformers writes them, and a tokenizer."""
    for name in FAMILIES:
        transformers_model(small_spec(**ARCHITECTURES[name])).save_pretrained(root / name, max_shard_size="150KB")
        write_tokenizer(root / name)
    _publish_as_instella(root / "instella")


def _publish_as_instella(directory: Path) -> None:
    """Give the files the names that AMD's have."""
    tensors = {name: tensor.clone() for name, tensor in TensorDirectory(directory)}
    for file in directory.glob("*.safetensors*"):
        file.unlink()
    renamed = {
        name.replace("experts.0.", ""): tensor for name, tensor in tensors.items() if "mlp.gate.weight" not in name
    }
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    for name in ("num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "clip_qkv"):
        config.pop(name, None)
    for name in ("router_aux_loss_coef", "output_router_logits"):
        config.pop(name, None)
    config |= {"model_type": "instella", "architectures": ["InstellaForCausalLM"]}
    (directory / "config.json").write_text(json.dumps(config))


def imports(root: Path, names: list[str], **config: Any) -> dict[str, dict[str, Any] | str]:
    """Import several directories: the proof of each, or the error's type and message where it fails."""
    told: dict[str, dict[str, Any] | str] = {}
    for name in names:
        target = root / f"{name} imported"
        target.mkdir()
        with alone():
            try:
                told[name] = import_directory(ImportConfig(path=str(root / name), **config), root / name, target)
            except Exception as error:
                told[name] = f"{type(error).__name__}: {error}"
    return told


def exports(root: Path, names: list[str]) -> dict[str, bool]:
    """Export what was imported; whether every tensor is what it was, bit for bit."""
    same = {}
    for name in names:
        target = root / f"{name} again"
        target.mkdir()
        with alone():
            export_directory(ExportConfig(max_shard_size=200_000), root / f"{name} imported", target)
        before, after = TensorDirectory(root / name), dict(TensorDirectory(target))
        if name == "instella":
            routers = {key for key in after if key.endswith("mlp.gate.weight")}
            after = {key.replace("experts.0.", ""): tensor for key, tensor in after.items() if key not in routers}
        same[name] = before.shapes().keys() == after.keys() and all(
            tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]) for key, tensor in before
        )
    return same


def change_tensors(directory: Path, change: Any) -> None:
    """Rewrite a model of one file."""
    file = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(change(tensors), file, metadata={"format": "pt"})
