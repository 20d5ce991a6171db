import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tatara.engine.model_directory import check_head_size, check_model_directory, checkpoint_dtype
from tatara.errors import EngineError


def _drop(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_text(text) and None


INDEX = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no model directory at"),
        (_drop("config.json"), "no config.json"),
        (_write("config.json", "{"), "config.json is not a model configuration"),
        (_write("config.json", "[]"), "config.json is not a model configuration"),
        (_write("config.json", '{"architectures": []}'), "names no architecture"),
        (_drop("model.safetensors"), "no weights"),
        (_write("model.safetensors.index.json", INDEX), "lacks 1 of 2 weight files, first model-00002-of"),
        (_drop("tokenizer.json"), "no tokenizer"),
    ],
)
def test_what_is_missing_is_named(tiny_llama: Path, tmp_path: Path, damage: Callable, message: str) -> None:
    directory = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    check_model_directory(directory)
    damage(directory)
    with pytest.raises(EngineError, match=message):
        check_model_directory(directory)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"hidden_size": 64, "num_attention_heads": 8, "head_dim": None}, 8),
        ({"head_dim": 48}, 48),
        ({"text_config": {"hidden_size": 32, "num_attention_heads": 2}}, 16),
    ],
    ids=["derived", "given", "nested"],
)
def test_heads_without_a_cpu_kernel_are_refused_by_both_engines(
    tiny_llama: Path, tmp_path: Path, changes: dict, size: int
) -> None:
    from tatara.engine.config import EngineConfig
    from tatara.engine.engine import Engine
    from tatara.engine.stepped import SteppedEngine

    check_head_size(tiny_llama, cuda=False)
    directory = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    line = rf"copy has attention heads of size {size}, which vLLM cannot run without a GPU: .* one of 32, 64, 80, "
    with pytest.raises(EngineError, match=line):
        SteppedEngine.start(directory, EngineConfig(), cuda=False)
    with pytest.raises(EngineError, match=line):
        asyncio.run(Engine.start(directory, EngineConfig(), cuda=False, name="copy"))
    check_head_size(directory, cuda=True)


def test_the_type_of_the_weights_is_read_from_either_field(tiny_llama: Path, tmp_path: Path) -> None:
    assert checkpoint_dtype(tiny_llama) == "float32"
    (tmp_path / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    assert checkpoint_dtype(tmp_path) == "bfloat16"
