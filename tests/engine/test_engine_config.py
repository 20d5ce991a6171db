import dataclasses
import subprocess
import sys

import pytest

from tatara.config import load
from tatara.engine.config import CPU_KV_CACHE_BYTES, EngineConfig
from tatara.engine.environment import engine_environment
from tatara.errors import ConfigError


def test_without_a_gpu_the_cache_is_sized_and_nothing_is_compiled() -> None:
    arguments = EngineConfig().arguments(cuda=False)
    assert arguments["kv_cache_memory_bytes"] == CPU_KV_CACHE_BYTES
    assert arguments["enforce_eager"] is True
    assert "max_model_len" not in arguments


def test_on_a_gpu_vllm_decides() -> None:
    arguments = EngineConfig().arguments(cuda=True)
    assert "kv_cache_memory_bytes" not in arguments
    assert arguments["enforce_eager"] is False


def test_native_arguments_pass_untouched_and_win() -> None:
    given = {"max_model_len": 64, "compilation_config": {"mode": 0}}
    arguments = EngineConfig(max_model_len=128, vllm_args=given).arguments(cuda=False)
    assert arguments["max_model_len"] == 64
    assert arguments["compilation_config"] == {"mode": 0}


def test_every_argument_is_one_of_vllm() -> None:
    from vllm import AsyncEngineArgs

    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    config = EngineConfig(max_model_len=8, max_num_seqs=2, kv_cache_bytes=1 << 26)
    assert set(config.arguments(cuda=False)) | set(config.arguments(cuda=True)) <= known


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dtype": "float8"}, "dtype"),
        ({"max_model_len": 0}, "max_model_len"),
        ({"max_model_length": 8}, "did you mean 'max_model_len'"),
    ],
)
def test_a_wrong_setting_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(EngineConfig, values)


def test_the_environment_of_a_cpu_engine_names_its_threads() -> None:
    assert engine_environment(cuda=False, threads=3)["OMP_NUM_THREADS"] == "3"


def test_a_gpu_engine_keeps_threads_compiler_and_processes_of_vllm() -> None:
    without = set(engine_environment(cuda=False)) - set(engine_environment(cuda=True))
    assert without == {
        "OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_ENABLE_V1_MULTIPROCESSING",
    }  # fmt: skip


def test_configuration_imports_neither_torch_nor_vllm_nor_ray() -> None:
    code = (
        "import sys, tatara.engine.config, tatara.serve.config;"
        "print([m for m in ('torch', 'vllm', 'ray', 'transformers', 'fastapi', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
