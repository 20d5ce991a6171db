"""What a directory must hold to be loaded as a model."""

import json
from pathlib import Path

from tatara.chat.model_files import check_chat
from tatara.errors import EngineError


def check_model_directory(directory: Path) -> None:
    """Refuse, in milliseconds, a directory that an engine would refuse after half a minute.

    Raises:
        EngineError: The directory is missing, or lacks its configuration, weights or tokenizer.
        ArtifactError: Its chat template is not the one that it was trained with, or does not end its answers.
    """
    if not directory.is_dir():
        raise EngineError(f"no model directory at {directory}")
    config = directory / "config.json"
    if not config.is_file():
        raise EngineError(f"{directory} is not a model: it has no config.json")
    try:
        architectures = json.loads(config.read_text(encoding="utf-8"))["architectures"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{config} is not a model configuration: {type(error).__name__} {error}") from None
    if not architectures:
        raise EngineError(f"{config} names no architecture")
    if not any(directory.glob("*.safetensors")):
        raise EngineError(f"{directory} has no weights (*.safetensors)")
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        absent = sorted(shard for shard in shards if not (directory / shard).is_file())
        if absent:
            raise EngineError(f"{directory} lacks {len(absent)} of {len(shards)} weight files, first {absent[0]}")
    if not (directory / "tokenizer.json").is_file() and not (directory / "tokenizer.model").is_file():
        raise EngineError(f"{directory} has no tokenizer (tokenizer.json)")
    check_chat(directory)


def check_head_size(directory: Path, *, cuda: bool) -> None:
    """Refuse a model whose attention vLLM has no CPU kernel for: it would end the process without a word.

    Args:
        directory: That `check_model_directory` has passed.
        cuda: Whether the engine runs on a GPU, whose kernels are others.

    Raises:
        EngineError: The size of its attention heads is not one that vLLM's CPU backend supports.
    """
    size = None if cuda else _head_size(directory)
    if size is None:
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if size not in sizes:
        raise EngineError(
            f"{directory} has attention heads of size {size}, which vLLM cannot run without a GPU: choose a "
            f"hidden_size and num_attention_heads that give one of {', '.join(map(str, sizes))}"
        )


def _head_size(directory: Path) -> int | None:
    """Of the attention, as vLLM reads it; None where the configuration does not say it in these words."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if "kv_lora_rank" in config or not hidden or not heads:
        # Latent attention has kernels of its own.
        return None
    return int(config.get("head_dim") or hidden // heads)


def checkpoint_dtype(directory: Path) -> str | None:
    """The type of the weights as the model's configuration names it, such as ``bfloat16``."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    # "torch_dtype" is what the field was called before transformers 5.
    return config.get("dtype") or config.get("torch_dtype")


def engine_dtype(directory: Path, wanted: str) -> str:
    """The type an engine computes in: vLLM's "auto" would halve float32, and what runs must be what was trained."""
    return "float32" if wanted == "auto" and checkpoint_dtype(directory) == "float32" else wanted
