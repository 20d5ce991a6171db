"""What vLLM is told when an engine is driven step by step."""

import os
from pathlib import Path
from typing import Any

from tatara.config import nearest
from tatara.engine.config import EngineConfig
from tatara.engine.model_directory import engine_dtype
from tatara.errors import EngineError

PROBE_SEQUENCES = 8
"""Sequences that the engine takes beyond its capacity, so that a probe never waits for one in flight to end."""

_FIXED = {
    # The log-probabilities at the sampling temperature, not those of the plain distribution.
    "logprobs_mode": "processed_logprobs",
    # Weights change between steps: none may be under way.
    "async_scheduling": False,
    # Tokens in, tokens out.
    "skip_tokenizer_init": True,
    # A file beside the model would change sampling behind the caller's back.
    "generation_config": "vllm",
    "disable_log_stats": True,
}


def stepped_arguments(model: Path, config: EngineConfig, cuda: bool) -> dict[str, Any]:
    """Keyword arguments of ``vllm.EngineArgs``.

    Raises:
        EngineError: One is unknown, or is not the caller's to set; or the process has not the engine's environment.
    """
    import dataclasses

    from vllm import EngineArgs

    if not cuda and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
        raise EngineError("this process has not the environment of an engine: set engine_environment() before imports")
    given = config.arguments(cuda)
    known = {each.name for each in dataclasses.fields(EngineArgs)}
    for key in given:
        if key not in known:
            raise EngineError(f"vllm_args.{key}: vLLM has no such argument; {nearest(key, known)}")
    for key, value in _FIXED.items():
        if given.get(key, value) != value:
            raise EngineError(f"vllm_args.{key}: a rollout engine needs {value}, leave it out")
    if given.get("pipeline_parallel_size", 1) != 1:
        raise EngineError(
            "vllm_args.pipeline_parallel_size: a rollout engine cannot be pipelined, use tensor parallelism"
        )
    if "max_num_seqs" in given:
        given["max_num_seqs"] += PROBE_SEQUENCES
    return given | _FIXED | {"model": str(model), "dtype": engine_dtype(model, given["dtype"])}
